"""What the database keeps of conversations: values, and the port to it."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from app.conversation.records import (
    Appended,
    ConversationId,
    Item,
    ItemPage,
    Paging,
    ResponseId,
    TenantId,
)
from app.errors import ConversationBusy, InvalidRequest, NotFound

ITEMS_DELETED = "items_deleted"
"""Why the head of a conversation is not its last turn."""


@dataclass(frozen=True, slots=True)
class StoredConversation:
    """A conversation without its items."""

    id: ConversationId
    tenant: TenantId
    created_at: datetime
    metadata: dict[str, str]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a conversation stands between two turns: see `Admission`. known: which of some ids its items
    have."""

    head: ResponseId | None
    pending: tuple[Item, ...]
    changed: str | None
    known: frozenset[str]


class ConversationStore(Protocol):
    """Every call is one short transaction. Each raises StoreUnavailable.

    While somebody holds a lease that has not expired, what changes the items raises ConversationBusy. An
    expired one counts for nothing, and is void once anybody changed the items.
    """

    async def create(self, conversation: StoredConversation, items: Collection[Item]) -> None: ...

    async def get(self, tenant: TenantId, conversation_id: ConversationId) -> StoredConversation | None: ...

    async def relabel(
        self, tenant: TenantId, conversation_id: ConversationId, metadata: dict[str, str]
    ) -> StoredConversation | None:
        """Replace its metadata."""

    async def delete(self, tenant: TenantId, conversation_id: ConversationId) -> None:
        """With its items; responses stay. Raises NotFound, ConversationBusy."""

    async def add(self, tenant: TenantId, conversation_id: ConversationId, items: Collection[Item]) -> None:
        """Items at its end, all or none. Raises NotFound, ConversationBusy, InvalidRequest for an id that an
        item of it has."""

    async def remove(
        self, tenant: TenantId, conversation_id: ConversationId, item_id: str
    ) -> StoredConversation:
        """One item. No response that has it in its prompt or output is the head after that. Raises NotFound,
        ConversationBusy."""

    async def item(self, tenant: TenantId, conversation_id: ConversationId, item_id: str) -> Item | None: ...

    async def items(
        self, tenant: TenantId, conversation_id: ConversationId, paging: Paging
    ) -> ItemPage | None:
        """None where there is no such conversation. Raises InvalidRequest where none has the id `after`."""

    async def take(
        self, tenant: TenantId, conversation_id: ConversationId, lease: str, lease_s: float
    ) -> None:
        """Hold it by the token `lease` for so long. Raises NotFound, ConversationBusy."""

    async def renew(
        self, tenant: TenantId, conversation_id: ConversationId, lease: str, lease_s: float
    ) -> None:
        """Hold it for so long from now on, where that token still holds it."""

    async def release(self, tenant: TenantId, conversation_id: ConversationId, lease: str) -> None:
        """Does nothing where that token does not hold it."""

    async def standing(
        self, tenant: TenantId, conversation_id: ConversationId, item_ids: Collection[str]
    ) -> Standing | None:
        """Its head is the last response that is still there and all of whose items are; pending, all items
        after that response's."""

    async def append(self, tenant: TenantId, appended: Appended) -> None:
        """What a turn that is not stored adds; it ends the lease. A turn that is stored adds its own as it is
        saved. Raises ConversationBusy where the lease was lost."""


def no_conversation(conversation_id: ConversationId, param: str = "conversation_id") -> NotFound:
    return NotFound(f"Conversation with id '{conversation_id}' not found.", param=param)


def no_item(conversation_id: ConversationId, item_id: str) -> NotFound:
    return NotFound(
        f"Item with id '{item_id}' not found in conversation '{conversation_id}'.", param="item_id"
    )


def busy(conversation_id: ConversationId) -> ConversationBusy:
    return ConversationBusy(
        f"Another turn of conversation '{conversation_id}' is running. Try again once it has ended.",
        param="conversation",
    )


def lost(conversation_id: ConversationId) -> ConversationBusy:
    return ConversationBusy(
        f"Conversation '{conversation_id}' was changed while this turn was running, so that it could not be "
        "added.",
        param="conversation",
    )


def same_id(item_id: str, param: str) -> InvalidRequest:
    return InvalidRequest(f"The conversation has an item with the id '{item_id}' already.", param=param)
