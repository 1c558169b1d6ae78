"""Token ids of turns, kept for a worker that lost them: written beside the turns, read only on a miss.

Nothing here can fail a turn: without a seed the next reseed tokenizes more, and means the same.
"""

import asyncio
import logging

from app.conversation.records import ResponseId, ResponseStore, TenantId
from app.errors import MarginaliaError

MAX_WAITING = 256
"""Seeds that may wait for the database; a turn of 100k new tokens has one of about 200 KB."""

logger = logging.getLogger("marginalia")


class Seeds:
    """Use as an async context: inside it, a task writes what `keep` is given.

    One after another, so that they never take more than one connection from the turns. `drain_s`: seconds
    that leaving the context grants to those that still wait.
    """

    def __init__(self, store: ResponseStore, drain_s: float = 2.0) -> None:
        self.dropped = 0
        """How many were not written, since the process began."""
        self._store = store
        self._drain_s = drain_s
        self._waiting: asyncio.Queue[tuple[TenantId, ResponseId, bytes]] = asyncio.Queue(MAX_WAITING)
        self._writer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Seeds":
        self._writer = asyncio.create_task(self._write())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._writer is not None
        try:
            await asyncio.wait_for(self.written(), self._drain_s)
        except TimeoutError:
            self._drop("the service ended", self._waiting.qsize() + 1)
        self._writer.cancel()
        await asyncio.wait({self._writer})

    def keep(self, tenant: TenantId, response_id: ResponseId, seed: bytes) -> None:
        """Write it soon. Returns at once, and drops it where too many wait."""
        try:
            self._waiting.put_nowait((tenant, response_id, seed))
        except asyncio.QueueFull:
            self._drop(f"more than {MAX_WAITING} wait")

    async def written(self) -> None:
        """Wait until nothing waits."""
        await self._waiting.join()

    async def of(self, tenant: TenantId, response_id: ResponseId) -> tuple[bytes, ...]:
        """Those of a conversation up to `response_id`, oldest first; none where they cannot be read."""
        try:
            return tuple(await self._store.seeds(tenant, response_id))
        except Exception as exc:  # Of whatever kind: the history alone will do.
            logger.warning("Token ids could not be read: %s", _why(exc))
            return ()

    async def _write(self) -> None:
        while True:
            tenant, response_id, seed = await self._waiting.get()
            try:
                await self._store.save_seed(tenant, response_id, seed)
            except Exception as exc:  # Of whatever kind: the next one may go well.
                self._drop(_why(exc))
            finally:
                self._waiting.task_done()

    def _drop(self, why: str, turns: int = 1) -> None:
        self.dropped += turns
        logger.warning("Token ids of %d turn(s) were not kept: %s", turns, why)


def _why(exc: Exception) -> str:
    # A database error's own text shows what was to be written: somebody's conversation.
    return exc.message if isinstance(exc, MarginaliaError) else type(exc).__name__
