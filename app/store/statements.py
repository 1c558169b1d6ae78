"""Every SQL statement about responses. Each names the tenant for every table that it reads.

A line of ancestors is walked by a recursive query over `previous_response_id`, which ends at the root.
"""

from typing import Any

from sqlalchemy import CTE, JSON, ColumnElement, Select, Update, and_, exists, func, literal, select, update
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import aliased

from app.conversation.records import ResponseId, TenantId
from app.store.models import INPUT, OUTPUT, CheckpointRow, ItemRow, ResponseRow, SeedRow

RESPONSE = (
    ResponseRow.id,
    ResponseRow.tenant_id,
    ResponseRow.root_id,
    ResponseRow.previous_response_id,
    ResponseRow.created_at,
    ResponseRow.body,
)
CHECKPOINT = (
    CheckpointRow.ref,
    CheckpointRow.prefix_hash,
    CheckpointRow.token_count,
    CheckpointRow.fingerprint,
    CheckpointRow.proof,
    CheckpointRow.worker,
    CheckpointRow.expires_at,
)


def live_response(tenant: TenantId, response_id: ResponseId) -> Select[Any]:
    """One row: the response and `output_items`; none where it is deleted."""
    return select(*RESPONSE, _items(OUTPUT, tenant, ResponseRow.id)).where(_live(tenant, response_id))


def live_parent(tenant: TenantId, response_id: ResponseId) -> Select[Any]:
    """As `live_response`, with the checkpoint's columns, all null where there is none."""
    own = and_(CheckpointRow.tenant_id == tenant, CheckpointRow.response_id == ResponseRow.id)
    return live_response(tenant, response_id).add_columns(*CHECKPOINT).outerjoin(CheckpointRow, own)


def history(tenant: TenantId, response_id: ResponseId) -> Select[Any]:
    """A row per turn with `input_items` and `output_items`, from the root to `response_id`."""
    line = _line(tenant, response_id)
    columns = (_items(direction, tenant, line.c.id) for direction in (INPUT, OUTPUT))
    return select(*columns).select_from(line).order_by(line.c.age.desc())


def seeds(tenant: TenantId, response_id: ResponseId) -> Select[Any]:
    """A row per turn that has a seed, from the root to `response_id`."""
    line = _line(tenant, response_id)
    own = and_(SeedRow.tenant_id == tenant, SeedRow.response_id == line.c.id)
    return select(SeedRow.seed).join(line, own).order_by(line.c.age.desc())


def lock_conversation(tenant: TenantId, response_id: ResponseId) -> Select[Any]:
    """Lets one deletion at a time work on a conversation. Does not hold up a new turn."""
    member = aliased(ResponseRow)
    root = select(member.root_id).where(member.tenant_id == tenant, member.id == response_id)
    return select(ResponseRow.id).where(_is(tenant, root.scalar_subquery())).with_for_update(key_share=True)


def lock_deletable(tenant: TenantId, response_id: ResponseId) -> Select[Any]:
    """Locks the response and its tombstoned ancestors against new children; no row where it is not live."""
    line = select(ResponseRow.id, ResponseRow.previous_response_id)
    line_cte = line.where(_live(tenant, response_id)).cte("line", recursive=True)
    tombstone = and_(_is(tenant, line_cte.c.previous_response_id), ResponseRow.deleted_at.is_not(None))
    ids = select(line_cte.union_all(line.where(tombstone)).c.id)
    return (
        select(ResponseRow.id)
        .where(ResponseRow.tenant_id == tenant, ResponseRow.id.in_(ids))
        .with_for_update()
    )


def removable(tenant: TenantId, response_id: ResponseId) -> Select[Any]:
    """Ids that nothing needs once `response_id` is gone: itself, then tombstones without another child.

    Empty where it has children.
    """
    row = select(ResponseRow.id, ResponseRow.previous_response_id)
    line = row.where(_live(tenant, response_id), ~_has_child(tenant)).cte("removable", recursive=True)
    tombstone = and_(_is(tenant, line.c.previous_response_id), ResponseRow.deleted_at.is_not(None))
    return select(line.union_all(row.where(tombstone, ~_has_child(tenant, besides=line))).c.id)


def bury(tenant: TenantId, response_id: ResponseId) -> Update:
    """Make a tombstone of it."""
    return update(ResponseRow).where(_is(tenant, response_id)).values(deleted_at=func.now())


def _line(tenant: TenantId, response_id: ResponseId) -> CTE:
    """A response and its ancestors: `id` and `age`, 0 for itself."""
    newest = select(ResponseRow.id, ResponseRow.previous_response_id, literal(0).label("age"))
    line = newest.where(_is(tenant, response_id)).cte("line", recursive=True)
    older = select(ResponseRow.id, ResponseRow.previous_response_id, line.c.age + 1)
    return line.union_all(older.where(_is(tenant, line.c.previous_response_id)))


def _is(tenant: TenantId, response_id: Any) -> ColumnElement[bool]:
    return and_(ResponseRow.tenant_id == tenant, ResponseRow.id == response_id)


def _live(tenant: TenantId, response_id: ResponseId) -> ColumnElement[bool]:
    return and_(_is(tenant, response_id), ResponseRow.deleted_at.is_(None))


def _has_child(tenant: TenantId, besides: CTE | None = None) -> ColumnElement[bool]:
    child = aliased(ResponseRow)
    condition = and_(child.tenant_id == tenant, child.previous_response_id == ResponseRow.id)
    found = exists().where(condition)
    return found if besides is None else found.where(child.id != besides.c.id)


def _items(direction: str, tenant: TenantId, response_id: Any) -> ColumnElement[Any]:
    in_order = func.json_agg(aggregate_order_by(ItemRow.item, ItemRow.position), type_=JSON)
    own = and_(ItemRow.tenant_id == tenant, ItemRow.response_id == response_id)
    items = select(in_order).where(own, ItemRow.direction == direction)
    return items.scalar_subquery().label(f"{direction}_items")
