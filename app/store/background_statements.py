"""The SQL statements about responses in the background."""

from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    ColumnElement,
    Integer,
    LargeBinary,
    Select,
    Text,
    Update,
    and_,
    bindparam,
    column,
    exists,
    func,
    select,
    update,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.types import TypeEngine

from app.conversation.background_store import Claim
from app.conversation.records import ResponseId, TenantId
from app.store.models import TABLES, BackgroundJobRow, ResponseEventRow, ResponseRow

WAITING, RUNNING, ENDED = "waiting", "running", "ended"


def lock(tenant: TenantId, response_id: ResponseId) -> Select[Any]:
    """Does not hold up one who continues it."""
    own = (ResponseRow.tenant_id == tenant, ResponseRow.id == response_id)
    return select(ResponseRow.body, ResponseRow.created_at).where(*own).with_for_update(key_share=True)


def claim(tenant: TenantId, response_id: ResponseId) -> Update:
    job = BackgroundJobRow
    begun = update(job).where(_is(tenant, response_id), job.state != ENDED)
    begun = begun.values(state=RUNNING, attempt=job.attempt + 1, tries=job.tries + 1)
    return begun.returning(job.attempt, job.tries, job.waits, job.request)


def end(tenant: TenantId, response_id: ResponseId) -> Update:
    """A row where it had not ended."""
    unended = and_(_is(tenant, response_id), BackgroundJobRow.state != ENDED)
    ended = update(BackgroundJobRow).where(unended).values(state=ENDED, request=None)
    return ended.returning(BackgroundJobRow.attempt)


def held_by(claim: Claim) -> ColumnElement[bool]:
    """Whether a job is that attempt's."""
    return _held(claim.tenant, claim.id, claim.attempt)


def logging() -> Select[Any]:
    """Adds events where the job is still the attempt's; one row: how many jobs are. Events that are there
    already are left as they are: only this attempt can have written them.

    Parameters: `tenant_id`, `response_id`, `attempt`, and lists `numbers`, `events` and `sampled`.
    """
    key = (bindparam("tenant_id", type_=Text()), bindparam("response_id", type_=Text()))
    mine = _held(*key, bindparam("attempt", type_=Integer()))
    held = select(BackgroundJobRow.response_id).where(mine)
    held_cte = held.with_for_update(read=True).cte("held")
    types: tuple[TypeEngine[Any], ...] = (Integer(), JSON(), LargeBinary())
    lists = [
        bindparam(n, type_=ARRAY(t)) for n, t in zip(("numbers", "events", "sampled"), types, strict=True)
    ]
    names = ("sequence_number", "event", "sampled")
    columns = [column(n, t) for n, t in zip(names, types, strict=True)]
    listed = func.unnest(*lists).table_valued(*columns).render_derived()
    events = TABLES["response_events"]
    new = select(*key, *listed.c).where(exists().where(held_cte.c.response_id.is_not(None)))
    added = upsert(events).from_select([c.name for c in events.c], new).on_conflict_do_nothing()
    return select(func.count()).select_from(held_cte).add_cte(added.cte("added"))


def events(tenant: TenantId, response_id: ResponseId) -> Select[Any]:
    logged = select(ResponseEventRow.event, ResponseEventRow.sampled).where(_of(tenant, response_id))
    return logged.order_by(ResponseEventRow.sequence_number)


def log(tenant: TenantId, response_id: ResponseId, after: int, limit: int) -> Select[Any]:
    """One row, none where there is no log: `state`, `last`, and `events` after the one of that number."""
    event = ResponseEventRow
    some = select(event.sequence_number, event.event).where(
        _of(tenant, response_id), event.sequence_number > after
    )
    page = some.order_by(event.sequence_number).limit(limit).subquery("page")
    in_order = func.json_agg(aggregate_order_by(page.c.event, page.c.sequence_number), type_=JSON)
    last = select(func.max(event.sequence_number)).where(_of(tenant, response_id))
    return select(
        BackgroundJobRow.state,
        last.scalar_subquery().label("last"),
        select(in_order).scalar_subquery().label("events"),
    ).where(_is(tenant, response_id))


def _is(tenant: Any, response_id: Any) -> ColumnElement[bool]:
    return and_(BackgroundJobRow.tenant_id == tenant, BackgroundJobRow.response_id == response_id)


def _held(tenant: Any, response_id: Any, attempt: Any) -> ColumnElement[bool]:
    mine = and_(BackgroundJobRow.attempt == attempt, BackgroundJobRow.state == RUNNING)
    return and_(_is(tenant, response_id), mine)


def _of(tenant: Any, response_id: Any) -> ColumnElement[bool]:
    return and_(ResponseEventRow.tenant_id == tenant, ResponseEventRow.response_id == response_id)
