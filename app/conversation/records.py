"""What the conversation keeps: values that the store writes and reads, and the port it offers.

A response is immutable once committed. Its items are the client's own JSON, which is why they are
plain dicts here and nowhere else.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NewType, Protocol

from app.prefix.wire import Boundary

TenantId = NewType("TenantId", str)
ResponseId = NewType("ResponseId", str)
ConversationId = NewType("ConversationId", str)
Item = dict[str, Any]
"""An input or output item as JSON, in the Responses API's shape."""

DEFAULT_TENANT = TenantId("default")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The compact prefix metadata of one turn: all that the next turn needs to name its prefix.

    `token_count` counts the prompt of the turn that made it; `proof` holds only the boundaries that
    this turn added, so that a checkpoint's size follows the margin.
    """

    ref: str
    prefix_hash: str
    token_count: int
    fingerprint: str
    proof: tuple[Boundary, ...]
    worker: str
    """URL of the worker that held the prefix when the turn ended."""
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """One committed turn without its items.

    `body` is the Response object as the client saw it, less `output` (kept as items). `created_at` is to the
    microsecond, so that responses have an order; the body's is in whole seconds.
    """

    id: ResponseId
    tenant: TenantId
    root_id: ResponseId
    """First response of the chain; equals `id` for the first turn."""
    previous_response_id: ResponseId | None
    created_at: datetime
    body: dict[str, Any]


@dataclass(slots=True)
class Lease:
    """A claim to a conversation's turn. ended: by the turn's commit, so that none is to be given back."""

    token: str
    ended: bool = False


@dataclass(frozen=True, slots=True)
class Admission:
    """A conversation's turn, taken: until it ends, nobody else's begins.

    head: the response whose prompt and output are the conversation's items as far as they are not `pending`;
    None where all are. changed: why it is not the last turn, or no turn: `items_deleted`.
    """

    conversation: ConversationId
    lease: Lease
    head: ResponseId | None
    pending: tuple[Item, ...]
    changed: str | None = None


@dataclass(frozen=True, slots=True)
class Appended:
    """What a turn adds to its conversation, under the lease of its admission."""

    conversation: ConversationId
    lease: str
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """Everything that one turn commits, in one transaction."""

    response: StoredResponse
    input_items: tuple[Item, ...]
    output_items: tuple[Item, ...]
    checkpoint: Checkpoint | None
    appended: Appended | None = None


@dataclass(frozen=True, slots=True)
class Parent:
    """What planning a turn reads of the turn before: a constant number of rows, none of them history."""

    response: StoredResponse
    output_items: tuple[Item, ...]
    checkpoint: Checkpoint | None


@dataclass(frozen=True, slots=True)
class Segment:
    """The items of one turn, for rebuilding a history."""

    input_items: tuple[Item, ...]
    output_items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Paging:
    """Which part of a list: at most `limit` entries after the one whose id is `after`."""

    limit: int = 20
    ascending: bool = False
    """Oldest first; else newest first."""
    after: str | None = None


@dataclass(frozen=True, slots=True)
class ItemPage:
    """A part of a list of items. more: whether the list goes on after it."""

    items: tuple[Item, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class ResponsePage:
    """A part of a list of responses, each with its output items."""

    responses: tuple[tuple[StoredResponse, tuple[Item, ...]], ...]
    more: bool


class ResponseStore(Protocol):
    """Port to the database. Every call is one short transaction; none is open while vLLM generates.

    Each raises `StoreUnavailable` when the database cannot be reached.
    """

    async def parent(self, tenant: TenantId, response_id: ResponseId) -> Parent | None:
        """The turn to continue; None when unknown, another tenant's, or deleted."""

    async def history(self, tenant: TenantId, response_id: ResponseId) -> list[Segment]:
        """All turns from the root to `response_id`, oldest first: O(history), for full renders only."""

    async def save(self, turn: Turn) -> None:
        """Commit a turn: response, items and checkpoint together or not at all."""

    async def get(
        self, tenant: TenantId, response_id: ResponseId
    ) -> tuple[StoredResponse, tuple[Item, ...]] | None:
        """A response with its output items; None when unknown, another tenant's, or deleted."""

    async def delete(self, tenant: TenantId, response_id: ResponseId) -> list[Checkpoint] | None:
        """Delete a response; None when there was none.

        While other responses continue it, its items stay for their sake, unreachable by its id; once the
        last of them is deleted, they are removed too. Returns the checkpoints that became useless.
        """

    async def save_seed(self, tenant: TenantId, response_id: ResponseId, seed: bytes) -> None:
        """Keep a saved turn's `seed`, once. Does nothing where its checkpoint is gone: it was deleted."""

    async def seeds(self, tenant: TenantId, response_id: ResponseId) -> list[bytes]:
        """What was kept of the turns from the root to `response_id`, oldest first; turns without are left
        out."""

    async def items(self, tenant: TenantId, item_ids: Collection[str]) -> dict[str, Item]:
        """The items of these ids that live responses hold, as input or output, by id. Where several hold one
        of the same id, it is the newest response's. Unknown ids are left out."""

    async def input_items(self, tenant: TenantId, response_id: ResponseId, paging: Paging) -> ItemPage | None:
        """Of all that was input to a response: the items of the turns before, and its own input. None when
        the response is unknown, another tenant's, or deleted.

        Of several with the same id, the last alone is listed. Raises InvalidRequest where none has the id
        `after`.
        """

    async def responses(self, tenant: TenantId, paging: Paging) -> ResponsePage:
        """Of the tenant's live responses. Raises InvalidRequest where none has the id `after`."""

    async def key(self, name: str) -> bytes:
        """A secret of 32 random bytes: made at the first call, for all who use this database, for good."""

    async def ping(self) -> None:
        """One real query."""
