"""Every SQL statement about conversations. Each names the tenant for every table that it reads."""

from collections.abc import Collection
from datetime import timedelta
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    ColumnElement,
    Delete,
    Select,
    Text,
    Update,
    and_,
    delete,
    exists,
    func,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.sql.dml import ReturningDelete

from app.conversation.conversation_store import ITEMS_DELETED
from app.conversation.records import ConversationId, Paging, TenantId
from app.store.models import ConversationItemRow, ConversationRow, ResponseRow
from app.store.paging import rows_of
from app.store.statements import in_order, starting_at

CONVERSATION = (
    ConversationRow.id,
    ConversationRow.tenant_id,
    ConversationRow.created_at,
    ConversationRow.labels,
)
_FREE = or_(ConversationRow.lease.is_(None), ConversationRow.lease_expires_at <= func.now())
_NOBODYS: dict[str, None] = {"lease": None, "lease_expires_at": None}


def conversation(tenant: TenantId, conversation_id: ConversationId) -> Select[Any]:
    return select(*CONVERSATION).where(_is(tenant, conversation_id))


def relabel(tenant: TenantId, conversation_id: ConversationId, metadata: dict[str, str]) -> Update:
    """One row: the conversation."""
    changed = (
        update(ConversationRow).where(_is(tenant, conversation_id)).values({ConversationRow.labels: metadata})
    )
    return changed.returning(*CONVERSATION)


def remove_conversation(tenant: TenantId, conversation_id: ConversationId) -> ReturningDelete[str]:
    """One row where it was free."""
    free = delete(ConversationRow).where(_is(tenant, conversation_id), _FREE)
    return free.returning(ConversationRow.id)


def take(tenant: TenantId, conversation_id: ConversationId, lease: str, lease_s: float) -> Update:
    """One row where it was free."""
    until = func.now() + timedelta(seconds=lease_s)
    taken = update(ConversationRow).where(_is(tenant, conversation_id), _FREE)
    return taken.values(lease=lease, lease_expires_at=until).returning(ConversationRow.id)


def renew(tenant: TenantId, conversation_id: ConversationId, lease: str, lease_s: float) -> Update:
    until = func.now() + timedelta(seconds=lease_s)
    return update(ConversationRow).where(_held(tenant, conversation_id, lease)).values(lease_expires_at=until)


def release(tenant: TenantId, conversation_id: ConversationId, lease: str) -> Update:
    return update(ConversationRow).where(_held(tenant, conversation_id, lease)).values(**_NOBODYS)


def lock_free(tenant: TenantId, conversation_id: ConversationId, more: int = 0) -> Update:
    """Locks it for the transaction, makes room for `more` items and a lease that expired void. One row, none
    where it is not free: the conversation and the `position` of the first of them."""
    return _making_room(_is(tenant, conversation_id), more).where(_FREE)


def finish(
    tenant: TenantId, conversation_id: ConversationId, lease: str, more: int, *, stored: bool
) -> Update:
    """As `lock_free`, for the turn that holds it, whose lease ends. stored: a response has its items, and is
    the head from now on."""
    finished = _making_room(_held(tenant, conversation_id, lease), more)
    return finished.values(changed=None) if stored and more else finished


def standing(tenant: TenantId, conversation_id: ConversationId, item_ids: Collection[str]) -> Select[Any]:
    """One row: `changed`, `head`, `pending` and `known`; each may be null."""
    item = ConversationItemRow
    mine = _items_of(tenant, conversation_id)
    live = and_(
        ResponseRow.tenant_id == tenant,
        ResponseRow.id == item.response_id,
        ResponseRow.deleted_at.is_(None),
    )
    last = select(item.response_id, item.position).join(ResponseRow, live).where(mine)
    head = last.order_by(item.position.desc()).limit(1).cte("head")
    covered = func.coalesce(select(head.c.position).scalar_subquery(), -1)
    in_order = func.json_agg(aggregate_order_by(item.item, item.position), type_=JSON)
    pending = select(in_order).where(mine, item.position > covered)
    known = select(func.array_agg(item.item_id)).where(mine, item.item_id == _any_of(item_ids))
    return select(
        ConversationRow.changed,
        select(head.c.response_id).scalar_subquery().label("head"),
        pending.scalar_subquery().label("pending"),
        known.scalar_subquery().label("known"),
    ).where(_is(tenant, conversation_id))


def known_ids(tenant: TenantId, conversation_id: ConversationId, item_ids: Collection[str]) -> Select[Any]:
    """Those of the ids that its items have."""
    item = ConversationItemRow
    return select(item.item_id).where(_items_of(tenant, conversation_id), item.item_id == _any_of(item_ids))


def item(tenant: TenantId, conversation_id: ConversationId, item_id: str) -> Select[Any]:
    """One row: `item` and `position`."""
    row = ConversationItemRow
    return select(row.item, row.position).where(_items_of(tenant, conversation_id), row.item_id == item_id)


def items(tenant: TenantId, conversation_id: ConversationId, paging: Paging) -> Select[Any]:
    """A row per item, from the one with the id `after` on, that one and one more than asked for included."""
    row = ConversationItemRow
    page = select(row.item).where(_items_of(tenant, conversation_id))
    if paging.after is not None:
        after = item(tenant, conversation_id, paging.after).with_only_columns(row.position)
        start = after.correlate(None).scalar_subquery()
        page = page.where(starting_at((row.position,), (start,), paging))
    return page.order_by(*in_order((row.position,), paging)).limit(rows_of(paging))


def has_head_from(tenant: TenantId, conversation_id: ConversationId, position: int) -> Select[Any]:
    """Whether a response has the item at `position` in its prompt or output."""
    return select(exists().where(_covered_from(tenant, conversation_id, position)))


def uncover(tenant: TenantId, conversation_id: ConversationId, position: int) -> Update:
    """No response is the head that has the item at `position` in its prompt or output."""
    row = ConversationItemRow
    those = select(row.response_id).where(_covered_from(tenant, conversation_id, position))
    mine = update(row).where(_items_of(tenant, conversation_id), row.response_id.in_(those))
    return mine.values(response_id=None)


def items_deleted(tenant: TenantId, conversation_id: ConversationId) -> Update:
    return update(ConversationRow).where(_is(tenant, conversation_id)).values(changed=ITEMS_DELETED)


def remove_item(tenant: TenantId, conversation_id: ConversationId, position: int) -> Delete:
    row = ConversationItemRow
    return delete(row).where(_items_of(tenant, conversation_id), row.position == position)


def _making_room(which: ColumnElement[bool], more: int) -> Update:
    room = update(ConversationRow).where(which)
    room = room.values(next_position=ConversationRow.next_position + more, **_NOBODYS)
    return room.returning(*CONVERSATION, (ConversationRow.next_position - more).label("position"))


def _is(tenant: TenantId, conversation_id: ConversationId) -> ColumnElement[bool]:
    return and_(ConversationRow.tenant_id == tenant, ConversationRow.id == conversation_id)


def _held(tenant: TenantId, conversation_id: ConversationId, lease: str) -> ColumnElement[bool]:
    return and_(_is(tenant, conversation_id), ConversationRow.lease == lease)


def _items_of(tenant: TenantId, conversation_id: ConversationId) -> ColumnElement[bool]:
    row = ConversationItemRow
    return and_(row.tenant_id == tenant, row.conversation_id == conversation_id)


def _covered_from(tenant: TenantId, conversation_id: ConversationId, position: int) -> ColumnElement[bool]:
    row = ConversationItemRow
    mine = _items_of(tenant, conversation_id)
    return and_(mine, row.position >= position, row.response_id.is_not(None))


def _any_of(item_ids: Collection[str]) -> ColumnElement[Any]:
    return func.any(literal([*item_ids], ARRAY(Text)))
