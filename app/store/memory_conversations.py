"""Conversations in memory, for tests: the same behaviour as Postgres, by the same suite."""

import copy
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from app.conversation.conversation_store import (
    ITEMS_DELETED,
    Standing,
    StoredConversation,
    busy,
    lost,
    no_conversation,
    no_item,
    same_id,
)
from app.conversation.records import (
    Appended,
    ConversationId,
    Item,
    ItemPage,
    Paging,
    ResponseId,
    TenantId,
)
from app.store.paging import from_on, page_of

NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass
class _Kept:
    conversation: StoredConversation
    items: list[tuple[Item, ResponseId | None]] = field(default_factory=list)
    changed: str | None = None
    lease: str | None = None
    until: datetime = NEVER


class MemoryConversationStore:
    """is_live: whether a tenant's response is there."""

    def __init__(self, is_live: Callable[[TenantId, ResponseId], bool]) -> None:
        self._is_live = is_live
        self._kept: dict[tuple[TenantId, ConversationId], _Kept] = {}

    async def create(self, conversation: StoredConversation, items: Collection[Item]) -> None:
        kept = _Kept(copy.deepcopy(conversation))
        self._kept[conversation.tenant, conversation.id] = kept
        _extend(kept, items)

    async def get(self, tenant: TenantId, conversation_id: ConversationId) -> StoredConversation | None:
        kept = self._kept.get((tenant, conversation_id))
        return copy.deepcopy(kept.conversation) if kept else None

    async def relabel(
        self, tenant: TenantId, conversation_id: ConversationId, metadata: dict[str, str]
    ) -> StoredConversation | None:
        if kept := self._kept.get((tenant, conversation_id)):
            kept.conversation = replace(kept.conversation, metadata=copy.deepcopy(metadata))
        return await self.get(tenant, conversation_id)

    async def delete(self, tenant: TenantId, conversation_id: ConversationId) -> None:
        self._free(tenant, conversation_id)
        del self._kept[tenant, conversation_id]

    async def add(self, tenant: TenantId, conversation_id: ConversationId, items: Collection[Item]) -> None:
        kept = self._free(tenant, conversation_id)
        known = {item["id"] for item, _ in kept.items}
        for position, item in enumerate(items):
            if item["id"] in known:
                raise same_id(item["id"], f"items[{position}].id")
        kept.lease = None
        _extend(kept, items)

    async def remove(
        self, tenant: TenantId, conversation_id: ConversationId, item_id: str
    ) -> StoredConversation:
        kept = self._free(tenant, conversation_id)
        ids = [item["id"] for item, _ in kept.items]
        if item_id not in ids:
            raise no_item(conversation_id, item_id)
        kept.lease = None
        place = ids.index(item_id)
        if lost_heads := {response for _, response in kept.items[place:] if response}:
            kept.items = [(item, None if r in lost_heads else r) for item, r in kept.items]
            kept.changed = ITEMS_DELETED
        del kept.items[place]
        return copy.deepcopy(kept.conversation)

    async def item(self, tenant: TenantId, conversation_id: ConversationId, item_id: str) -> Item | None:
        kept = self._kept.get((tenant, conversation_id))
        found = [item for item, _ in kept.items if item["id"] == item_id] if kept else []
        return copy.deepcopy(found[0]) if found else None

    async def items(
        self, tenant: TenantId, conversation_id: ConversationId, paging: Paging
    ) -> ItemPage | None:
        kept = self._kept.get((tenant, conversation_id))
        if kept is None:
            return None
        rows, more = page_of(from_on([(item["id"], item) for item, _ in kept.items], paging), paging)
        return ItemPage(tuple(copy.deepcopy(item) for _, item in rows), more)

    async def take(
        self, tenant: TenantId, conversation_id: ConversationId, lease: str, lease_s: float
    ) -> None:
        kept = self._free(tenant, conversation_id)
        kept.lease, kept.until = lease, _in(lease_s)

    async def renew(
        self, tenant: TenantId, conversation_id: ConversationId, lease: str, lease_s: float
    ) -> None:
        if kept := self._held(tenant, conversation_id, lease):
            kept.until = _in(lease_s)

    async def release(self, tenant: TenantId, conversation_id: ConversationId, lease: str) -> None:
        if kept := self._held(tenant, conversation_id, lease):
            kept.lease = None

    async def standing(
        self, tenant: TenantId, conversation_id: ConversationId, item_ids: Collection[str]
    ) -> Standing | None:
        kept = self._kept.get((tenant, conversation_id))
        if kept is None:
            return None
        heads = [
            (place, response)
            for place, (_, response) in enumerate(kept.items)
            if response and self._is_live(tenant, response)
        ]
        place, head = heads[-1] if heads else (-1, None)
        pending = tuple(copy.deepcopy(item) for item, _ in kept.items[place + 1 :])
        known = {item["id"] for item, _ in kept.items} & set(item_ids)
        return Standing(head, pending, kept.changed, frozenset(known))

    async def append(self, tenant: TenantId, appended: Appended) -> None:
        self.finish(tenant, appended, None)

    def finish(self, tenant: TenantId, appended: Appended, response_id: ResponseId | None) -> None:
        """What a turn adds; it ends the lease. response_id: None for a turn that is not stored. Raises
        ConversationBusy where the lease was lost."""
        kept = self._held(tenant, appended.conversation, appended.lease)
        if kept is None:
            raise lost(appended.conversation)
        kept.lease = None
        _extend(kept, appended.items, response_id)
        if response_id is not None and appended.items:
            kept.changed = None

    def _free(self, tenant: TenantId, conversation_id: ConversationId) -> _Kept:
        kept = self._kept.get((tenant, conversation_id))
        if kept is None:
            raise no_conversation(conversation_id)
        if kept.lease is not None and kept.until > datetime.now(UTC):
            raise busy(conversation_id)
        return kept

    def _held(self, tenant: TenantId, conversation_id: ConversationId, lease: str) -> _Kept | None:
        kept = self._kept.get((tenant, conversation_id))
        return kept if kept is not None and kept.lease == lease else None


def _extend(kept: _Kept, items: Collection[Item], response_id: ResponseId | None = None) -> None:
    kept.items += [(copy.deepcopy(item), response_id) for item in items]


def _in(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)
