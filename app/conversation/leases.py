"""One turn of a conversation at a time: who has it holds a lease, kept alive while the turn runs."""

import asyncio
import contextlib
import random
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import TypeVar

from app.conversation.conversation_store import ConversationStore
from app.conversation.records import ConversationId, Lease, TenantId
from app.errors import ConversationBusy, StoreUnavailable

T = TypeVar("T")

LEASE_S = 30.0
"""How long the conversation of a process that was killed stays taken."""

PATIENCE_S = 60.0
SHORTEST_POLL_S, LONGEST_POLL_S = 0.02, 0.25


class Leases:
    """wait: whether to wait for a conversation that is taken, at most `patience_s`, or to refuse at once.

    Who waits asks again and again, at intervals with a random part: of several any may be the next.
    """

    def __init__(
        self,
        store: ConversationStore,
        *,
        wait: bool,
        patience_s: float = PATIENCE_S,
        lease_s: float = LEASE_S,
    ) -> None:
        self._store = store
        self._patience_s = patience_s if wait else 0.0
        self._lease_s = lease_s
        self._releasing: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def held(
        self, tenant: TenantId, conversation_id: ConversationId, *, may_wait: bool = True
    ) -> AsyncIterator[Lease]:
        """Without `may_wait`, one that is taken is refused at once. Raises NotFound, ConversationBusy."""
        lease = Lease(secrets.token_hex(16))
        token = lease.token
        keeping: asyncio.Task[None] | None = None
        try:
            take = partial(self._store.take, tenant, conversation_id, token, self._lease_s)
            await self.when_free(take, may_wait=may_wait)
            keeping = asyncio.create_task(self._keep(tenant, conversation_id, token))
            yield lease
        finally:
            if keeping is not None:
                keeping.cancel()
            if not lease.ended:
                # Whoever goes away, and whatever was taken while he went: a task of its own sees to it.
                releasing = asyncio.create_task(self._release(tenant, conversation_id, token))
                self._releasing.add(releasing)
                releasing.add_done_callback(self._releasing.discard)
                await asyncio.shield(releasing)

    async def when_free(self, work: Callable[[], Awaitable[T]], *, may_wait: bool = True) -> T:
        """What `work` gives, once it no longer raises ConversationBusy; raises that where patience ends."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._patience_s if may_wait else 0.0)
        poll_s = SHORTEST_POLL_S
        while True:
            try:
                return await work()
            except ConversationBusy:
                if loop.time() + poll_s > deadline:
                    raise
            await asyncio.sleep(poll_s * random.uniform(0.5, 1.0))
            poll_s = min(poll_s * 1.5, LONGEST_POLL_S)

    async def aclose(self) -> None:
        """Wait for what is being released."""
        if self._releasing:
            await asyncio.wait(self._releasing)

    async def _keep(self, tenant: TenantId, conversation_id: ConversationId, lease: str) -> None:
        while True:
            await asyncio.sleep(self._lease_s / 3)
            with contextlib.suppress(StoreUnavailable):
                await self._store.renew(tenant, conversation_id, lease, self._lease_s)

    async def _release(self, tenant: TenantId, conversation_id: ConversationId, lease: str) -> None:
        # What cannot be released expires.
        with contextlib.suppress(StoreUnavailable):
            await self._store.release(tenant, conversation_id, lease)
