"""Every SQL statement about responses. Each names the tenant for every table that it reads.

A line of ancestors is walked by a recursive query over `previous_response_id`, which ends at the root.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import (
    ARRAY,
    CTE,
    JSON,
    ColumnElement,
    Insert,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    column,
    exists,
    func,
    insert,
    literal,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.orm import aliased

from app.conversation.records import Paging, ResponseId, TenantId
from app.store.models import INPUT, OUTPUT, TABLES, CheckpointRow, ItemRow, ResponseRow, SeedRow
from app.store.paging import rows_of

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

_Tenant = TenantId | ColumnElement[str]


def live_response(tenant: _Tenant, response_id: Any) -> Select[Any]:
    """One row: the response and `output_items`; none where it is deleted."""
    return select(*RESPONSE, _items(OUTPUT, tenant, ResponseRow.id)).where(_live(tenant, response_id))


def live_parent() -> Select[Any]:
    """As `live_response`, with the checkpoint's columns, all null where there is none.

    Parameters: `tenant_id`, `response_id`. Built once: every turn executes it.
    """
    tenant, response_id = bindparam("tenant_id", type_=Text()), bindparam("response_id", type_=Text())
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


def items(tenant: TenantId, item_ids: Sequence[str]) -> Select[Any]:
    """A row per id with `id` and `item`: of those that live responses hold the newest's, or null."""
    wanted = func.unnest(literal(item_ids, ARRAY(Text))).table_valued("id").render_derived("wanted")
    holder = and_(_is(tenant, ItemRow.response_id), ResponseRow.deleted_at.is_(None))
    held = select(ItemRow.item).join(ResponseRow, holder)
    age = (ResponseRow.created_at, ResponseRow.id, ItemRow.direction, ItemRow.position)
    newest = held.where(ItemRow.tenant_id == tenant, ItemRow.item_id == wanted.c.id)
    newest = newest.order_by(*(column.desc() for column in age)).limit(1)
    return select(wanted.c.id, newest.scalar_subquery().label("item"))


def input_items(tenant: TenantId, response_id: ResponseId, paging: Paging) -> Select[Any]:
    """One row, none where the response is not live: `page`, items from the one with the id `after` on, that
    one and one more than asked for included; null where there are none. Of several with the same id, the last
    alone is listed: a place that an id stands for has to be the only one."""
    line = _line(tenant, response_id)
    # In a turn, input comes before output, in the alphabet too.
    place = ((-line.c.age).label("turn"), ItemRow.direction, ItemRow.position)
    of_turn = and_(ItemRow.tenant_id == tenant, ItemRow.response_id == line.c.id)
    own_output = and_(line.c.age == 0, ItemRow.direction == OUTPUT)
    held = select(*place).select_from(line).join(ItemRow, of_turn).where(~own_output)
    again = func.lead(ItemRow.item_id).over(partition_by=ItemRow.item_id, order_by=place)
    *key, item, later = held.add_columns(ItemRow.item, again.label("later")).subquery("held").c
    chosen = select(*key, item).where(later.is_(None)).order_by(*in_order(key, paging))
    if paging.after is not None:
        newest_first = in_order(place, Paging(ascending=False))
        after = held.where(ItemRow.item_id == paging.after).order_by(*newest_first).limit(1).cte("after")
        chosen = chosen.join(after, starting_at(key, tuple(after.c), paging))
    page = chosen.limit(rows_of(paging)).subquery("page")
    *key, item = page.c
    listed = func.json_agg(aggregate_order_by(item, *in_order(key, paging)), type_=JSON)
    return select(select(listed).scalar_subquery().label("page")).where(_live(tenant, response_id))


def responses(tenant: TenantId, paging: Paging) -> Select[Any]:
    """A row per live response with `output_items`, from the one with the id `after` on, that one and one more
    than asked for included."""
    place = (ResponseRow.created_at, ResponseRow.id)
    page = select(*RESPONSE, _items(OUTPUT, tenant, ResponseRow.id))
    page = page.where(ResponseRow.tenant_id == tenant, ResponseRow.deleted_at.is_(None))
    if paging.after is not None:
        other = aliased(ResponseRow)
        its_age = select(other.created_at).where(
            other.tenant_id == tenant, other.id == paging.after, other.deleted_at.is_(None)
        )
        page = page.where(starting_at(place, (its_age.scalar_subquery(), literal(paging.after)), paging))
    return page.order_by(*in_order(place, paging)).limit(rows_of(paging))


def saving(*, with_checkpoint: bool, begun: bool) -> Select[Any]:
    """A turn, all of it or nothing: one statement, at whose end Postgres checks what refers to what.

    begun: its response is there already, without items. It keeps its age.
    Parameters are named `table_column`; those of items are lists. Built once: it is the same for every turn.
    """
    response, item, checkpoint = (TABLES[name] for name in ("responses", "items", "checkpoints"))
    given = {c.name: bindparam(f"responses_{c.name}", type_=c.type) for c in RESPONSE}
    key = {"tenant_id": given["tenant_id"], "response_id": given["id"]}
    columns = [c for c in item.c if c.name not in key]
    lists = (bindparam(f"items_{c.name}", type_=ARRAY(c.type)) for c in columns)
    listed = func.unnest(*lists).table_valued(*(column(c.name, c.type) for c in columns)).render_derived()
    items = insert(item).from_select([*key, *columns], select(*key.values(), *listed.c))
    saved: Insert | Update = insert(response).values(given)
    if begun:
        own = (response.c.tenant_id == key["tenant_id"], response.c.id == key["response_id"])
        changes = ("root_id", "previous_response_id", "body")
        saved = update(response).where(*own).values({name: given[name] for name in changes})
    turn = select(literal(1)).add_cte(saved.cte("response"), items.cte("new_items"))
    if not with_checkpoint:
        return turn
    proof = {c.name: bindparam(f"checkpoints_{c.name}", type_=c.type) for c in CHECKPOINT}
    return turn.add_cte(insert(checkpoint).values({**key, **proof}).cte("new_checkpoint"))


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


def _is(tenant: _Tenant, response_id: Any) -> ColumnElement[bool]:
    return and_(ResponseRow.tenant_id == tenant, ResponseRow.id == response_id)


def _live(tenant: _Tenant, response_id: Any) -> ColumnElement[bool]:
    return and_(_is(tenant, response_id), ResponseRow.deleted_at.is_(None))


def _has_child(tenant: TenantId, besides: CTE | None = None) -> ColumnElement[bool]:
    child = aliased(ResponseRow)
    condition = and_(child.tenant_id == tenant, child.previous_response_id == ResponseRow.id)
    found = exists().where(condition)
    return found if besides is None else found.where(child.id != besides.c.id)


def _items(direction: str, tenant: _Tenant, response_id: Any) -> ColumnElement[Any]:
    in_order = func.json_agg(aggregate_order_by(ItemRow.item, ItemRow.position), type_=JSON)
    own = and_(ItemRow.tenant_id == tenant, ItemRow.response_id == response_id)
    items = select(in_order).where(own, ItemRow.direction == direction)
    return items.scalar_subquery().label(f"{direction}_items")


def in_order(place: Sequence[Any], paging: Paging) -> list[ColumnElement[Any]]:
    """To order by. place: the columns that rows are listed by."""
    return [column.asc() if paging.ascending else column.desc() for column in place]


def starting_at(place: Sequence[Any], start: Sequence[Any], paging: Paging) -> ColumnElement[bool]:
    """Whether a row is at `start` or comes after it."""
    here, there = tuple_(*place), tuple_(*start)
    return here >= there if paging.ascending else here <= there
