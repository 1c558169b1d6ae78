"""What keeps contexts in order beside the turns: lost prefixes made ready again, expired contexts removed.

Nothing here can fail a turn: without it, a turn that starts from a context renders more, and means the same.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from app.conversation.context_store import Context, ContextId, ContextStore
from app.conversation.plan import Caching, TurnRequest
from app.conversation.records import ResponseStore, TenantId, Turn
from app.conversation.responses import Responses
from app.conversation.running import Begun
from app.conversation.turns import Turns
from app.errors import MarginaliaError, NotFound

SWEPT_AT_ONCE = 16

logger = logging.getLogger("marginalia")


class Upkeep:
    """Use as an async context: what still runs when it is left is given up."""

    def __init__(
        self, contexts: ContextStore, store: ResponseStore, responses: Responses, turns: Turns
    ) -> None:
        self._contexts = contexts
        self._store = store
        self._responses = responses
        self._turns = turns
        self._running: dict[tuple[TenantId, ContextId | None], asyncio.Task[None]] = {}
        """By context; a tenant's sweep by None."""

    async def __aenter__(self) -> "Upkeep":
        return self

    async def __aexit__(self, *_: object) -> None:
        tasks = [*self._running.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def warm_soon(self, context: Context, request: TurnRequest) -> None:
        """See `warm`. Returns at once, and does nothing where that is going on."""
        self._soon((context.tenant, context.id), self.warm(context, request))

    def sweep_soon(self, tenant: TenantId) -> None:
        """See `sweep`. Returns at once, and does nothing where that is going on."""
        self._soon((tenant, None), self.sweep(tenant))

    async def settled(self) -> None:
        """Wait until nothing is going on."""
        while self._running:
            await asyncio.wait([*self._running.values()])

    async def warm(self, context: Context, request: TurnRequest) -> None:
        """Make a context's prefix ready once more, for as long as the context lives.

        request: what created it, with any input.
        """
        left_s = int((context.expires_at - datetime.now(UTC)).total_seconds())
        if left_s < 1:
            return
        first = (await self._store.history(context.tenant, context.response_id))[0]
        again = replace(request, input=first.input_items, caching=Caching(enabled=True, ttl_s=left_s))
        begun = Begun(context.response_id, context.created_at, (), self._keep)
        turn = await self._turns.start(again, context.tenant, begun)
        async for _ in turn.events():
            pass
        if turn.failure is not None:
            raise turn.failure

    async def sweep(self, tenant: TenantId) -> None:
        """Remove some of the contexts that expired, with their responses."""
        for context_id, response_id in await self._contexts.useless(tenant, datetime.now(UTC), SWEPT_AT_ONCE):
            with suppress(NotFound):
                await self._responses.delete(tenant, response_id)
            await self._contexts.remove(tenant, context_id)

    async def _keep(self, turn: Turn) -> None:
        if turn.checkpoint is not None:
            await self._contexts.keep(turn.response.tenant, turn.response.id, turn.checkpoint)

    def _soon(self, key: tuple[TenantId, ContextId | None], work: Coroutine[Any, Any, None]) -> None:
        if key in self._running:
            work.close()
            return
        self._running[key] = asyncio.create_task(self._quietly(key, work))

    async def _quietly(self, key: tuple[TenantId, ContextId | None], work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as exc:  # Of whatever kind: the next use tries again.
            # A database error's own text shows what was to be written: somebody's conversation.
            why = exc.message if isinstance(exc, MarginaliaError) else type(exc).__name__
            logger.warning("Upkeep of %s failed: %s", key[1] or "expired contexts", why)
        finally:
            del self._running[key]
