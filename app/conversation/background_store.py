"""What is kept of a response that is made in the background: the port to the database."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from app.conversation.output import Event
from app.conversation.records import ConversationId, ResponseId, TenantId, Turn

Sampled = Mapping[int, Sequence[int]]
"""By an event's number, the ids of tokens that were sampled since the event before it."""


class Superseded(Exception):
    """An attempt may write no more: the response was cancelled or deleted, or another attempt has begun."""


@dataclass(frozen=True, slots=True)
class Claim:
    """An attempt at a response: the only one that may write, until the next is claimed.

    attempt: its number, which no other has. tries: how many were made that count, this one included.
    waits: how often one was put off for what would pass. request: sealed. events: the log so far.
    sampled: the token ids in it.
    """

    tenant: TenantId
    id: ResponseId
    attempt: int
    tries: int
    waits: int
    created_at: datetime
    body: dict[str, Any]
    request: str
    events: tuple[Event, ...]
    sampled: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class LogPage:
    """A part of a response's log. last: number of the newest event that there is; ended: none will follow."""

    events: tuple[Event, ...]
    last: int
    ended: bool


class BackgroundStore(Protocol):
    """Every call is one short transaction. Each raises StoreUnavailable."""

    async def create(self, turn: Turn, request: str, events: Sequence[Event]) -> None:
        """Keep a response that is yet to be made: its body and input, the sealed request, its first events.

        Raises PreviousResponseNotFound where the parent was removed since it was read.
        """

    async def claim(self, tenant: TenantId, response_id: ResponseId) -> Claim | None:
        """Begin an attempt, whatever became of the last one. None where the response has ended or is gone."""

    async def append(self, claim: Claim, events: Sequence[Event], sampled: Sampled | None = None) -> None:
        """Log events; without any, see whether one still could. Raises Superseded.

        The same events, with the same ids, may be given again where it is not known whether they were
        written.
        """

    async def save(self, claim: Claim, turn: Turn, events: Sequence[Event]) -> None:
        """Commit the turn, with its last events. Raises Superseded; PreviousResponseNotFound as `create`."""

    async def fail(self, claim: Claim, body: dict[str, Any], events: Sequence[Event]) -> None:
        """End the response without a turn, with its last events. Raises Superseded."""

    async def release(self, claim: Claim, *, tries: int, waits: int) -> None:
        """End the attempt; another may follow. Does nothing where it was superseded."""

    async def cancel(self, tenant: TenantId, response_id: ResponseId) -> None:
        """End the response as cancelled. Does nothing where it has ended."""

    async def log(self, tenant: TenantId, response_id: ResponseId, after: int) -> LogPage | None:
        """Events with greater numbers than `after`, not always all. None where there is no log."""

    async def unended(
        self, older_than_s: float, most: int
    ) -> list[tuple[TenantId, ResponseId, ConversationId | None]]:
        """Responses that have not ended and were created as many seconds ago: the oldest, in order."""

    def sweeping(self) -> AbstractAsyncContextManager[bool]:
        """Inside, whether it is this process' turn to look after what was left: one at a time is."""
