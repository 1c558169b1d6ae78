"""Contexts: prefixes that are made ready once and that many conversations start from.

A context is a response that answers nothing, as `prompt_cache_options.prewarm` makes one, with a name, an end
of its life, and the fields that make its prompt: those stand in for what a turn from it leaves out.
"""

import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from app.conversation.context_store import Context, ContextId, ContextStore, HeldContext
from app.conversation.output import new_id
from app.conversation.pages import page
from app.conversation.plan import TurnRequest
from app.conversation.records import Paging, TenantId
from app.conversation.responses import Responses
from app.conversation.turns import Turns
from app.conversation.upkeep import Upkeep
from app.errors import NotFound

Json = dict[str, Any]

_REPEATED = ("model", "instructions", "tools", "tool_choice", "parallel_tool_calls", "text", "reasoning")


class Contexts:
    """What a tenant keeps of them."""

    def __init__(self, store: ContextStore, turns: Turns, responses: Responses, upkeep: Upkeep) -> None:
        self._store = store
        self._turns = turns
        self._responses = responses
        self._upkeep = upkeep

    async def create(self, tenant: TenantId, name: str | None, prompt: Json, request: TurnRequest) -> Json:
        """Make a prefix ready and keep it for as long as the request's caching says. prompt: see Context.

        request: for a turn that continues nothing and generates nothing. Raises as such a turn does.
        """
        self._upkeep.sweep_soon(tenant)
        turn = await self._turns.start(request, tenant)
        async for events in turn.events():
            response = events[-1].get("response", {})
        if turn.failure is not None:
            raise turn.failure
        await turn.settle()
        now, ttl_s = datetime.now(UTC), request.caching.ttl_s
        context = Context(
            id=ContextId(new_id("ctx")),
            tenant=tenant,
            name=name,
            response_id=turn.id,
            created_at=now,
            expires_at=now + timedelta(seconds=ttl_s),
            ttl_s=ttl_s,
            prompt={**prompt, "model": response["model"]},
        )
        await self._store.add(context)
        return await self.get(tenant, context.id)

    async def get(self, tenant: TenantId, context_id: ContextId) -> Json:
        """The Context object. Raises NotFound."""
        return _as_json(await self._held(tenant, context_id))

    async def page(self, tenant: TenantId, paging: Paging, name: str | None) -> Json:
        """A list of the tenant's Context objects, or of those with that name. Raises InvalidRequest for an
        unknown `after`."""
        self._upkeep.sweep_soon(tenant)
        found = await self._store.page(tenant, paging, name, datetime.now(UTC))
        return page([_as_json(held) for held in found.contexts], more=found.more)

    async def delete(self, tenant: TenantId, context_id: ContextId) -> None:
        """Delete a context, and what the worker holds of it. Conversations that began from it go on.

        Raises NotFound.
        """
        context = (await self._held(tenant, context_id)).context
        # In this order: a context without its response is none, if it ends between the two.
        with contextlib.suppress(NotFound):
            await self._responses.delete(tenant, context.response_id)
        await self._store.remove(tenant, context_id)

    async def use(
        self, tenant: TenantId, context_id: ContextId, ttl_s: int | None, *, param: str
    ) -> HeldContext:
        """The context for a turn to start from. ttl_s: lets it live for so many seconds from now, at least.

        Raises NotFound, naming `param`.
        """
        held = await self._held(tenant, context_id, param)
        context, now = held.context, datetime.now(UTC)
        if ttl_s is None or context.expires_at >= now + timedelta(seconds=ttl_s):
            return held
        renewed = replace(context, expires_at=now + timedelta(seconds=ttl_s), ttl_s=ttl_s)
        await self._store.renew(tenant, context_id, renewed.expires_at, ttl_s)
        return replace(held, context=renewed)

    def began(self, held: HeldContext, path: str | None, again: TurnRequest) -> None:
        """A turn from the context began, and took that path. Where the prefix was lost, or is not kept for
        as long as the context lives, it is made ready again in the background.

        again: what created the context, with any input.
        """
        if path == "reseed" or _ends_early(held, datetime.now(UTC)):
            self._upkeep.warm_soon(held.context, again)

    async def _held(self, tenant: TenantId, context_id: ContextId, param: str = "context_id") -> HeldContext:
        held = await self._store.get(tenant, context_id, datetime.now(UTC))
        if held is None:
            self._upkeep.sweep_soon(tenant)
            raise NotFound(f"Context with id '{context_id}' not found.", param=param)
        return held


def starting_from(held: HeldContext, request: TurnRequest) -> TurnRequest:
    """The turn as one that continues the context, unless it says itself what it continues."""
    if request.previous_response_id is not None:
        return request
    return replace(request, previous_response_id=held.context.response_id)


def _ends_early(held: HeldContext, now: datetime) -> bool:
    """In less than half of the context's time: so that renewing it with each turn costs few requests."""
    return held.kept_until is not None and held.kept_until - now < (held.context.expires_at - now) / 2


def _as_json(held: HeldContext) -> Json:
    context, body = held.context, held.body
    kept = held.kept_until is not None and held.kept_until > datetime.now(UTC)
    return {
        "id": context.id,
        "object": "context",
        "created_at": int(context.created_at.timestamp()),
        "expires_at": int(context.expires_at.timestamp()),
        "ttl": context.ttl_s,
        "name": context.name,
        "status": "ready" if kept else "cold",
        "token_count": body["usage"]["input_tokens"],
        "response_id": context.response_id,
        **{name: body[name] for name in _REPEATED},
        "chat_template_kwargs": context.prompt.get("chat_template_kwargs"),
        "metadata": body["metadata"],
    }
