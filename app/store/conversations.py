"""Conversations in Postgres: the adapter behind the `ConversationStore` port.

Each call is one statement or one short transaction. What changes items locks the conversation's row first:
that is the order in which they come.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import Executable, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.conversation.conversation_store import (
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
from app.errors import MarginaliaError
from app.store import conversation_statements as statements
from app.store.database import Database
from app.store.models import TABLES
from app.store.packing import possible, possible_after
from app.store.paging import page_of

_CREATING = insert(TABLES["conversations"])
_ADDING = insert(TABLES["conversation_items"])


class PostgresConversationStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, conversation: StoredConversation, items: Collection[Item]) -> None:
        row = {
            "tenant_id": conversation.tenant,
            "id": conversation.id,
            "created_at": conversation.created_at,
            "metadata": conversation.metadata,
            "next_position": len(items),
        }
        async with self._database.transaction() as connection:
            await connection.execute(_CREATING, row)
            await _insert(connection, conversation.tenant, conversation.id, items, position=0)

    async def get(self, tenant: TenantId, conversation_id: ConversationId) -> StoredConversation | None:
        return _conversation(
            await self._row(statements.conversation(tenant, conversation_id), conversation_id)
        )

    async def relabel(
        self, tenant: TenantId, conversation_id: ConversationId, metadata: dict[str, str]
    ) -> StoredConversation | None:
        relabel = statements.relabel(tenant, conversation_id, metadata)
        return _conversation(await self._row(relabel, conversation_id))

    async def delete(self, tenant: TenantId, conversation_id: ConversationId) -> None:
        if not await self._row(statements.remove_conversation(tenant, conversation_id), conversation_id):
            raise await self._not_free(tenant, conversation_id)

    async def add(self, tenant: TenantId, conversation_id: ConversationId, items: Collection[Item]) -> None:
        if not possible(conversation_id):
            raise no_conversation(conversation_id)
        ids = [item["id"] for item in items]
        async with self._database.transaction() as connection:
            lock = statements.lock_free(tenant, conversation_id, len(items))
            row = (await connection.execute(lock)).one_or_none()
            if row is not None:
                found = await connection.execute(statements.known_ids(tenant, conversation_id, ids))
                if known := found.scalars().all():
                    raise same_id(known[0], f"items[{ids.index(known[0])}].id")
                await _insert(connection, tenant, conversation_id, items, row.position)
        if row is None:
            raise await self._not_free(tenant, conversation_id)

    async def remove(
        self, tenant: TenantId, conversation_id: ConversationId, item_id: str
    ) -> StoredConversation:
        if not possible(conversation_id):
            raise no_conversation(conversation_id)
        if not possible(item_id):
            raise no_item(conversation_id, item_id)
        async with self._database.transaction() as connection:
            row = (await connection.execute(statements.lock_free(tenant, conversation_id))).one_or_none()
            if row is not None:
                await _remove(connection, tenant, conversation_id, item_id)
        conversation = _conversation(row)
        if conversation is None:
            raise await self._not_free(tenant, conversation_id)
        return conversation

    async def item(self, tenant: TenantId, conversation_id: ConversationId, item_id: str) -> Item | None:
        if not possible(item_id):
            return None
        row = await self._row(statements.item(tenant, conversation_id, item_id), conversation_id)
        return None if row is None else row.item

    async def items(
        self, tenant: TenantId, conversation_id: ConversationId, paging: Paging
    ) -> ItemPage | None:
        if not possible(conversation_id):
            return None
        page = statements.items(tenant, conversation_id, possible_after(paging))
        async with self._database.reading() as connection:
            rows = (await connection.execute(page)).scalars().all()
        if not rows and await self.get(tenant, conversation_id) is None:
            return None
        return ItemPage(*page_of(rows, paging))

    async def take(
        self, tenant: TenantId, conversation_id: ConversationId, lease: str, lease_s: float
    ) -> None:
        take = statements.take(tenant, conversation_id, lease, lease_s)
        if not await self._row(take, conversation_id):
            raise await self._not_free(tenant, conversation_id)

    async def renew(
        self, tenant: TenantId, conversation_id: ConversationId, lease: str, lease_s: float
    ) -> None:
        await self._database.write(statements.renew(tenant, conversation_id, lease, lease_s), {})

    async def release(self, tenant: TenantId, conversation_id: ConversationId, lease: str) -> None:
        if possible(conversation_id):
            await self._database.write(statements.release(tenant, conversation_id, lease), {})

    async def standing(
        self, tenant: TenantId, conversation_id: ConversationId, item_ids: Collection[str]
    ) -> Standing | None:
        row = await self._row(statements.standing(tenant, conversation_id, item_ids), conversation_id)
        if row is None:
            return None
        return Standing(row.head, tuple(row.pending or ()), row.changed, frozenset(row.known or ()))

    async def append(self, tenant: TenantId, appended: Appended) -> None:
        async with self._database.transaction() as connection:
            await append(connection, tenant, appended, None)

    async def _row(self, statement: Executable, conversation_id: ConversationId) -> Any:
        """The one row of a statement; None where there is none."""
        if not possible(conversation_id):
            return None
        async with self._database.reading() as connection:
            return (await connection.execute(statement)).one_or_none()

    async def _not_free(self, tenant: TenantId, conversation_id: ConversationId) -> MarginaliaError:
        there = await self.get(tenant, conversation_id)
        return no_conversation(conversation_id) if there is None else busy(conversation_id)


async def append(
    connection: AsyncConnection, tenant: TenantId, appended: Appended, response_id: ResponseId | None
) -> None:
    """What a turn adds, in its transaction, before anything else; it ends the lease.

    response_id: None for a turn that is not stored. Raises ConversationBusy where the lease was lost.
    """
    finish = statements.finish(
        tenant,
        appended.conversation,
        appended.lease,
        len(appended.items),
        stored=response_id is not None,
    )
    row = (await connection.execute(finish)).one_or_none()
    if row is None:
        raise lost(appended.conversation)
    await _insert(connection, tenant, appended.conversation, appended.items, row.position, response_id)


async def _insert(
    connection: AsyncConnection,
    tenant: TenantId,
    conversation_id: ConversationId,
    items: Collection[Item],
    position: int,
    response_id: ResponseId | None = None,
) -> None:
    """position: of the first."""
    rows = [
        {
            "tenant_id": tenant,
            "conversation_id": conversation_id,
            "position": place,
            "item": item,
            "item_id": item["id"],
            "response_id": response_id,
        }
        for place, item in enumerate(items, position)
    ]
    if rows:
        await connection.execute(_ADDING, rows)


async def _remove(
    connection: AsyncConnection, tenant: TenantId, conversation_id: ConversationId, item_id: str
) -> None:
    found = (await connection.execute(statements.item(tenant, conversation_id, item_id))).one_or_none()
    if found is None:
        raise no_item(conversation_id, item_id)
    place = found.position
    covered = await connection.execute(statements.has_head_from(tenant, conversation_id, place))
    if covered.scalar_one():
        await connection.execute(statements.uncover(tenant, conversation_id, place))
        await connection.execute(statements.items_deleted(tenant, conversation_id))
    await connection.execute(statements.remove_item(tenant, conversation_id, place))


def _conversation(row: Any) -> StoredConversation | None:
    if row is None:
        return None
    return StoredConversation(row.id, row.tenant_id, row.created_at, row.metadata)
