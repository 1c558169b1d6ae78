"""Contexts in memory, for tests: the same behaviour as Postgres, by the same suite."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from app.conversation.context_store import Context, ContextId, ContextPage, HeldContext
from app.conversation.records import Checkpoint, Paging, ResponseId, TenantId
from app.errors import NotFound
from app.store.memory import MemoryResponseStore
from app.store.paging import from_on, page_of


class MemoryContextStore:
    def __init__(self, responses: MemoryResponseStore) -> None:
        self._responses = responses
        self._contexts: dict[tuple[TenantId, ContextId], Context] = {}

    async def add(self, context: Context) -> None:
        if await self._responses.parent(context.tenant, context.response_id) is None:
            raise NotFound(f"Response with id '{context.response_id}' not found.", param="response_id")
        self._contexts[context.tenant, context.id] = copy.deepcopy(context)

    async def get(self, tenant: TenantId, context_id: ContextId, now: datetime) -> HeldContext | None:
        context = self._contexts.get((tenant, context_id))
        return await self._held(context, now) if context else None

    async def page(self, tenant: TenantId, paging: Paging, name: str | None, now: datetime) -> ContextPage:
        own = [context for (owner, _), context in self._contexts.items() if owner == tenant]
        own.sort(key=lambda context: (context.created_at, context.id))
        found = [await self._held(context, now) for context in own if name in (None, context.name)]
        listed = [(held.context.id, held) for held in found if held is not None]
        rows, more = page_of(from_on(listed, paging), paging)
        return ContextPage(tuple(held for _, held in rows), more)

    async def renew(self, tenant: TenantId, context_id: ContextId, expires_at: datetime, ttl_s: int) -> None:
        context = self._contexts.get((tenant, context_id))
        if context is not None and context.expires_at < expires_at:
            self._contexts[tenant, context_id] = replace(context, expires_at=expires_at, ttl_s=ttl_s)

    async def remove(self, tenant: TenantId, context_id: ContextId) -> None:
        self._contexts.pop((tenant, context_id), None)

    async def useless(
        self, tenant: TenantId, now: datetime, limit: int
    ) -> Sequence[tuple[ContextId, ResponseId]]:
        own = [context for (owner, _), context in self._contexts.items() if owner == tenant]
        gone = [context for context in own if await self._held(context, now) is None]
        return [(context.id, context.response_id) for context in gone[:limit]]

    async def keep(self, tenant: TenantId, response_id: ResponseId, checkpoint: Checkpoint) -> None:
        self._responses.give(tenant, response_id, checkpoint)

    async def _held(self, context: Context, now: datetime) -> HeldContext | None:
        parent = await self._responses.parent(context.tenant, context.response_id)
        if parent is None or context.expires_at <= now:
            return None
        kept_until = parent.checkpoint.expires_at if parent.checkpoint else None
        return HeldContext(copy.deepcopy(context), parent.response.body, kept_until)
