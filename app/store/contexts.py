"""Contexts in Postgres: the adapter behind the `ContextStore` port. Each call is one statement."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Select, and_, delete, exc, insert, literal, or_, select, update
from sqlalchemy.dialects.postgresql import insert as upsert

from app.conversation.context_store import Context, ContextId, ContextPage, HeldContext
from app.conversation.records import Checkpoint, Paging, ResponseId, TenantId
from app.errors import NotFound
from app.store.database import Database
from app.store.models import CONTEXT_FK, TABLES, CheckpointRow, ContextRow, ResponseRow
from app.store.packing import checkpoint_values, possible, possible_after
from app.store.paging import page_of, rows_of
from app.store.statements import in_order, starting_at

_ADDING = insert(TABLES["contexts"])
_ITS_RESPONSE = and_(ResponseRow.tenant_id == ContextRow.tenant_id, ResponseRow.id == ContextRow.response_id)
_ITS_CHECKPOINT = and_(
    CheckpointRow.tenant_id == ContextRow.tenant_id, CheckpointRow.response_id == ContextRow.response_id
)


class PostgresContextStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, context: Context) -> None:
        row = {
            "tenant_id": context.tenant,
            "id": context.id,
            "name": context.name,
            "response_id": context.response_id,
            "created_at": context.created_at,
            "expires_at": context.expires_at,
            "ttl_s": context.ttl_s,
            "prompt": context.prompt,
        }
        try:
            await self._database.write(_ADDING, row)
        except exc.IntegrityError as error:
            if CONTEXT_FK not in str(error.orig):
                raise
            message = f"Response with id '{context.response_id}' not found."
            raise NotFound(message, param="response_id") from error

    async def get(self, tenant: TenantId, context_id: ContextId, now: datetime) -> HeldContext | None:
        if not possible(context_id):
            return None
        one = _there(tenant, now).where(ContextRow.id == context_id)
        async with self._database.reading() as connection:
            row = (await connection.execute(one)).one_or_none()
        return None if row is None else _held(row)

    async def page(self, tenant: TenantId, paging: Paging, name: str | None, now: datetime) -> ContextPage:
        statement = _page(tenant, possible_after(paging), name, now)
        async with self._database.reading() as connection:
            rows = (await connection.execute(statement)).all()
        return ContextPage(*page_of(tuple(_held(row) for row in rows), paging))

    async def renew(self, tenant: TenantId, context_id: ContextId, expires_at: datetime, ttl_s: int) -> None:
        own = and_(ContextRow.tenant_id == tenant, ContextRow.id == context_id)
        longer = update(ContextRow).where(own, ContextRow.expires_at < expires_at)
        await self._database.write(longer.values(expires_at=expires_at, ttl_s=ttl_s), {})

    async def remove(self, tenant: TenantId, context_id: ContextId) -> None:
        own = and_(ContextRow.tenant_id == tenant, ContextRow.id == context_id)
        await self._database.write(delete(ContextRow).where(own), {})

    async def useless(
        self, tenant: TenantId, now: datetime, limit: int
    ) -> Sequence[tuple[ContextId, ResponseId]]:
        gone = or_(ContextRow.expires_at <= now, ResponseRow.deleted_at.is_not(None))
        found = select(ContextRow.id, ContextRow.response_id).join(ResponseRow, _ITS_RESPONSE)
        found = found.where(ContextRow.tenant_id == tenant, gone).limit(limit)
        async with self._database.reading() as connection:
            rows = (await connection.execute(found)).all()
        return [(ContextId(row.id), ResponseId(row.response_id)) for row in rows]

    async def keep(self, tenant: TenantId, response_id: ResponseId, checkpoint: Checkpoint) -> None:
        values = checkpoint_values(checkpoint)
        typed = [literal(value, TABLES["checkpoints"].c[name].type) for name, value in values.items()]
        # A row of it only while the response is live: what is deleted has no checkpoint.
        live = select(ResponseRow.tenant_id, ResponseRow.id, *typed).where(
            ResponseRow.tenant_id == tenant, ResponseRow.id == response_id, ResponseRow.deleted_at.is_(None)
        )
        new = upsert(CheckpointRow).from_select(["tenant_id", "response_id", *values], live)
        instead = {name: new.excluded[name] for name in values}
        await self._database.write(
            new.on_conflict_do_update(index_elements=["tenant_id", "response_id"], set_=instead), {}
        )


def _there(tenant: TenantId, now: datetime) -> Select[Any]:
    """A row per context that is there."""
    columns = (*TABLES["contexts"].c, ResponseRow.body, CheckpointRow.expires_at.label("kept_until"))
    held = select(*columns).select_from(ContextRow).join(ResponseRow, _ITS_RESPONSE)
    return held.outerjoin(CheckpointRow, _ITS_CHECKPOINT).where(
        ContextRow.tenant_id == tenant, ContextRow.expires_at > now, ResponseRow.deleted_at.is_(None)
    )


def _page(tenant: TenantId, paging: Paging, name: str | None, now: datetime) -> Select[Any]:
    """From the context with the id `after` on, that one and one more than asked for included."""
    there = _there(tenant, now)
    listed = (there if name is None else there.where(ContextRow.name == name)).cte("listed")
    place, page = (listed.c.created_at, listed.c.id), select(listed)
    if paging.after is not None:
        its_age = select(listed.c.created_at).where(listed.c.id == paging.after).scalar_subquery()
        page = page.where(starting_at(place, (its_age, literal(paging.after)), paging))
    return page.order_by(*in_order(place, paging)).limit(rows_of(paging))


def _held(row: Any) -> HeldContext:
    context = Context(
        id=ContextId(row.id),
        tenant=TenantId(row.tenant_id),
        name=row.name,
        response_id=ResponseId(row.response_id),
        created_at=row.created_at,
        expires_at=row.expires_at,
        ttl_s=row.ttl_s,
        prompt=row.prompt,
    )
    return HeldContext(context, row.body, row.kept_until)
