"""Conversations: items to which turns are added, in order. What the API does with them, and how turns do."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from app.conversation.conversation_store import (
    ConversationStore,
    StoredConversation,
    no_conversation,
    no_item,
    same_id,
)
from app.conversation.inputs import resolve
from app.conversation.leases import Leases
from app.conversation.output import new_id
from app.conversation.pages import WITHOUT_STATUS, page, shown
from app.conversation.records import (
    Admission,
    Appended,
    ConversationId,
    Item,
    Lease,
    Paging,
    ResponseStore,
    TenantId,
)
from app.conversation.sealing import Sealing
from app.errors import NotFound

Json = dict[str, Any]

# Where a response's items have one, a conversation's have none.
_WITHOUT_STATUS = WITHOUT_STATUS | {"custom_tool_call", "custom_tool_call_output"}


class Conversations:
    """What changes a conversation's items takes turns with its turns: it waits, or raises ConversationBusy.

    responses: where references to items lead. With `seal`, reasoning items have their
    `encrypted_content` too.
    """

    def __init__(
        self, store: ConversationStore, responses: ResponseStore, sealing: Sealing, leases: Leases
    ) -> None:
        self._store = store
        self._responses = responses
        self._sealing = sealing
        self._leases = leases

    @asynccontextmanager
    async def admit(
        self,
        tenant: TenantId,
        conversation_id: ConversationId,
        given: Sequence[Item],
        *,
        may_wait: bool = True,
    ) -> AsyncIterator[Admission]:
        """Its turn, until the context ends or the turn is committed. given: the items of the request. Without
        `may_wait`, a conversation that is taken is refused at once.

        Raises NotFound, ConversationBusy, InvalidRequest for an id that an item of it has.
        """
        async with AsyncExitStack() as stack:
            try:
                held = self._leases.held(tenant, conversation_id, may_wait=may_wait)
                lease = await stack.enter_async_context(held)
            except NotFound:
                raise no_conversation(conversation_id, "conversation") from None
            yield await self._admission(tenant, conversation_id, given, lease)

    async def look(
        self, tenant: TenantId, conversation_id: ConversationId, given: Sequence[Item]
    ) -> Admission:
        """As `admit`, but with no claim to its turn: only to see what that would be."""
        return await self._admission(tenant, conversation_id, given, Lease(""))

    async def append(self, tenant: TenantId, appended: Appended) -> None:
        """What a turn that is not stored adds. Raises ConversationBusy where its lease was lost."""
        await self._store.append(tenant, appended)

    async def create(self, tenant: TenantId, items: Sequence[Item], metadata: dict[str, str]) -> Json:
        """Raises NotFound for a reference to an item that is not stored, InvalidRequest."""
        resolved = await self._resolved(tenant, items)
        made = StoredConversation(ConversationId(new_id("conv")), tenant, datetime.now(UTC), metadata)
        await self._store.create(made, resolved)
        return _as_json(made)

    async def get(self, tenant: TenantId, conversation_id: ConversationId) -> Json:
        """Raises NotFound."""
        return _found(await self._store.get(tenant, conversation_id), conversation_id)

    async def update(
        self, tenant: TenantId, conversation_id: ConversationId, metadata: dict[str, str]
    ) -> Json:
        """Replace its metadata. Raises NotFound."""
        return _found(await self._store.relabel(tenant, conversation_id, metadata), conversation_id)

    async def delete(self, tenant: TenantId, conversation_id: ConversationId) -> None:
        """With its items; the responses that were made in it stay. Raises NotFound, ConversationBusy."""
        await self._leases.when_free(lambda: self._store.delete(tenant, conversation_id))

    async def add(
        self,
        tenant: TenantId,
        conversation_id: ConversationId,
        items: Sequence[Item],
        *,
        seal: bool = False,
    ) -> Json:
        """A list of the items that were added. Raises NotFound, ConversationBusy, InvalidRequest."""
        resolved = await self._resolved(tenant, items)
        await self._leases.when_free(lambda: self._store.add(tenant, conversation_id, resolved))
        return page(await self._shown(tenant, resolved, seal=seal), more=False)

    async def items(
        self, tenant: TenantId, conversation_id: ConversationId, paging: Paging, *, seal: bool = False
    ) -> Json:
        """A list of its items. Raises NotFound, InvalidRequest for an unknown `after`."""
        found = await self._store.items(tenant, conversation_id, paging)
        if found is None:
            raise no_conversation(conversation_id)
        return page(await self._shown(tenant, found.items, seal=seal), more=found.more)

    async def item(
        self, tenant: TenantId, conversation_id: ConversationId, item_id: str, *, seal: bool = False
    ) -> Item:
        """Raises NotFound."""
        found = await self._store.item(tenant, conversation_id, item_id)
        if found is None:
            raise no_item(conversation_id, item_id)
        return (await self._shown(tenant, (found,), seal=seal))[0]

    async def delete_item(self, tenant: TenantId, conversation_id: ConversationId, item_id: str) -> Json:
        """The conversation without it. Raises NotFound, ConversationBusy."""
        return _as_json(
            await self._leases.when_free(lambda: self._store.remove(tenant, conversation_id, item_id))
        )

    async def _admission(
        self, tenant: TenantId, conversation_id: ConversationId, given: Sequence[Item], lease: Lease
    ) -> Admission:
        _check_ids(given, "input")
        stands = await self._store.standing(tenant, conversation_id, [item["id"] for item in given])
        if stands is None:
            raise no_conversation(conversation_id, "conversation")
        for position, item in enumerate(given):
            if item["id"] in stands.known:
                raise same_id(item["id"], f"input[{position}].id")
        return Admission(conversation_id, lease, stands.head, stands.pending, stands.changed)

    async def _resolved(self, tenant: TenantId, items: Sequence[Item]) -> tuple[Item, ...]:
        _check_ids(items, "items")
        return await resolve(items, self._responses, tenant, self._sealing, "items")

    async def _shown(self, tenant: TenantId, items: tuple[Item, ...], *, seal: bool) -> list[Item]:
        sealed = await self._sealing.sealed(tenant, items) if seal else items
        return shown(sealed, _WITHOUT_STATUS)


def _check_ids(items: Sequence[Item], name: str) -> None:
    """In a conversation an id stands for one item."""
    seen: set[str] = set()
    for position, item in enumerate(items):
        if item["id"] in seen:
            raise same_id(item["id"], f"{name}[{position}].id")
        seen.add(item["id"])


def _found(conversation: StoredConversation | None, conversation_id: ConversationId) -> Json:
    if conversation is None:
        raise no_conversation(conversation_id)
    return _as_json(conversation)


def _as_json(conversation: StoredConversation) -> Json:
    return {
        "id": conversation.id,
        "object": "conversation",
        "created_at": int(conversation.created_at.timestamp()),
        "metadata": conversation.metadata,
    }
