"""What the client of one WebSocket asks for: one after the other in a lane, lanes beside each other."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from app.api.body import MAX_BODY_BYTES
from app.errors import StreamLimitReached, TooManyWaiting

MAX_RUNNING = 16
MAX_NAMED = 32
"""OpenAI's, for one connection."""
MAX_WAITING = 256
"""Where OpenAI names no limit. Their bodies take MAX_BODY_BYTES at most, all together."""


@dataclass(slots=True)
class _Lane:
    stream_id: str | None
    waiting: deque[bytes] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None


class Lanes:
    """`respond` is called with each message and its stream_id; the lane goes on once it returns, and takes no
    more where it raises. `aclose` ends whatever runs and forgets what waits."""

    def __init__(self, respond: Callable[[bytes, str | None], Awaitable[None]]) -> None:
        self._respond = respond
        self._lanes: dict[str | None, _Lane] = {None: _Lane(None)}
        self._running = asyncio.Semaphore(MAX_RUNNING)
        self._waiting = 0
        self._waiting_bytes = 0

    def add(self, message: bytes, stream_id: str | None) -> None:
        """Raises StreamLimitReached, TooManyWaiting."""
        if stream_id not in self._lanes and len(self._lanes) > MAX_NAMED:
            raise StreamLimitReached(
                "This WebSocket connection has reached its maximum number of distinct stream IDs "
                f"({MAX_NAMED}). Reuse an existing stream_id or open a new WebSocket connection.",
                param="stream_id",
            )
        full = self._waiting and self._waiting_bytes + len(message) > MAX_BODY_BYTES
        if full or self._waiting >= MAX_WAITING:
            raise TooManyWaiting("Too many requests wait on this WebSocket connection already.")
        lane = self._lanes.setdefault(stream_id, _Lane(stream_id))
        lane.waiting.append(message)
        self._waiting += 1
        self._waiting_bytes += len(message)
        if lane.task is None:
            lane.task = asyncio.create_task(self._work(lane))

    async def aclose(self) -> None:
        tasks = [lane.task for lane in self._lanes.values() if lane.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _work(self, lane: _Lane) -> None:
        while lane.waiting:
            async with self._running:
                message = lane.waiting.popleft()
                self._waiting -= 1
                self._waiting_bytes -= len(message)
                await self._respond(message, lane.stream_id)
        lane.task = None
