"""Responses in the background: made by jobs that outlive clients and processes, and read from their logs."""

import asyncio
import logging
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Protocol

from app.conversation.background_store import BackgroundStore, LogPage
from app.conversation.output import Event, new_id
from app.conversation.plan import TurnRequest
from app.conversation.records import ConversationId, ResponseId, StoredResponse, TenantId, Turn
from app.conversation.request_json import pack
from app.conversation.response import new_body
from app.conversation.responses import Responses
from app.conversation.sealing import Sealing
from app.conversation.turns import Turns
from app.errors import InvalidRequest, StoreUnavailable

Json = dict[str, Any]

SHORTEST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 0.5
"""Between two looks into a log in which nothing happens."""
STORE_PATIENCE_S = 30.0
"""How long a stream stays silent while Postgres cannot be reached, before it breaks off."""

logger = logging.getLogger("marginalia")


class Jobs(Protocol):
    """Port to the queue of what is to be made. Who puts something there need not be who makes it."""

    async def put(
        self, tenant: TenantId, response_id: ResponseId, conversation: ConversationId | None
    ) -> None:
        """Those of one conversation are made one after another, as they were put. Raises StoreUnavailable."""


class Background:
    def __init__(
        self, store: BackgroundStore, responses: Responses, turns: Turns, sealing: Sealing, jobs: Jobs
    ) -> None:
        self._store = store
        self._responses = responses
        self._turns = turns
        self._sealing = sealing
        self._jobs = jobs

    async def create(self, tenant: TenantId, request: TurnRequest) -> Json:
        """Have a response made. Returns it as it is by now: queued.

        Raises what Turns.start raises before vLLM is asked.
        """
        asking, asked = await self._turns.look(request, tenant)
        model, parent = asking.generation.model, None if request.conversation else asked.parent
        request = replace(request, model=model, input=asked.given)
        response_id, now = ResponseId(new_id("resp")), datetime.now(UTC)
        body = {**new_body(request, response_id, model, now), "status": "queued"}
        stored = StoredResponse(
            id=response_id,
            tenant=tenant,
            root_id=parent.response.root_id if parent else response_id,
            previous_response_id=parent.response.id if parent else None,
            created_at=now,
            body=body,
        )
        whole = {**body, "output": []}
        events: list[Event] = [
            {"type": kind, "sequence_number": number, "response": whole}
            for number, kind in enumerate(("response.created", "response.queued"))
        ]
        sealed = (await self._sealing.requests()).seal(tenant, pack(request))
        await self._store.create(Turn(stored, asked.given, (), None), sealed, events)
        try:
            await self._jobs.put(tenant, response_id, request.conversation)
        except StoreUnavailable as exc:
            # It is kept: whoever looks after what was left puts it there.
            logger.warning("A response in the background has to wait: %s", exc.message)
        return whole

    async def cancel(self, tenant: TenantId, response_id: ResponseId) -> Json:
        """End a response, if it has not ended. Returns it as it is then, however often it is called.

        Raises NotFound, InvalidRequest for one that is not in the background.
        """
        if not (await self._responses.get(tenant, response_id))["background"]:
            raise InvalidRequest("Cannot cancel a synchronous response.", param="response_id")
        await self._store.cancel(tenant, response_id)
        return await self._responses.get(tenant, response_id)

    async def follow(
        self, tenant: TenantId, response_id: ResponseId, starting_after: int | None = None
    ) -> AsyncIterator[list[Event]]:
        """A response's events after that number, then those that come, each once, until it has ended.

        Raises NotFound, InvalidRequest for one that is not in the background or has no such event. The
        iterator raises StoreUnavailable.
        """
        if not (await self._responses.get(tenant, response_id))["background"]:
            raise InvalidRequest("Only a response in background can be streamed.", param="stream")
        after = -1 if starting_after is None else starting_after
        page = await self._store.log(tenant, response_id, after)
        if page is not None and after > page.last:
            message = f"The response has no event {after} yet: its last one is {page.last}."
            raise InvalidRequest(message, param="starting_after")
        return self._follow(tenant, response_id, after, page)

    async def _follow(
        self, tenant: TenantId, response_id: ResponseId, after: int, page: LogPage | None
    ) -> AsyncIterator[list[Event]]:
        """Ends with the log, or where the response is deleted."""
        pause = SHORTEST_PAUSE_S
        while page is not None:
            if page.events:
                after = page.events[-1]["sequence_number"]
                yield list(page.events)
            if page.ended and after >= page.last:
                return
            pause = SHORTEST_PAUSE_S if page.events else min(pause * 1.5, LONGEST_PAUSE_S)
            await asyncio.sleep(pause)
            page = await self._read(tenant, response_id, after)

    async def _read(self, tenant: TenantId, response_id: ResponseId, after: int) -> LogPage | None:
        loop = asyncio.get_running_loop()
        until = loop.time() + STORE_PATIENCE_S
        while True:
            try:
                return await self._store.log(tenant, response_id, after)
            except StoreUnavailable:
                if loop.time() > until:
                    raise
                await asyncio.sleep(LONGEST_PAUSE_S)
