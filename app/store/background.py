"""Responses in the background, in Postgres: the adapter behind the `BackgroundStore` port.

Who changes a job locks its response before it, as a deletion does. An attempt that logs events holds its
job's row meanwhile, so that the next attempt sees all that the last one wrote.
"""

import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from sqlalchemy import and_, func, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.conversation.background_store import Claim, LogPage, Sampled, Superseded
from app.conversation.output import Event
from app.conversation.records import ConversationId, ResponseId, TenantId, Turn
from app.store import background_statements as statements
from app.store.database import Database
from app.store.models import TABLES, BackgroundJobRow, ResponseRow
from app.store.packing import possible
from app.store.responses import write_turn

PAGE_EVENTS = 500
SWEEP_LOCK = 0x6D61726770  # any number that nobody else locks in this database

_LOGGING = statements.logging()


class PostgresBackgroundStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, turn: Turn, request: str, events: Sequence[Event]) -> None:
        key = {"tenant_id": turn.response.tenant, "response_id": turn.response.id}
        first = {"state": statements.WAITING, "attempt": 0, "tries": 0, "waits": 0, "request": request}
        async with self._database.transaction() as connection:
            await write_turn(connection, turn)
            await connection.execute(TABLES["background_jobs"].insert(), {**key, **first})
            await connection.execute(TABLES["response_events"].insert(), _rows(key, events))

    async def claim(self, tenant: TenantId, response_id: ResponseId) -> Claim | None:
        async with self._database.transaction() as connection:
            response = await self._lock(connection, tenant, response_id)
            job = (await connection.execute(statements.claim(tenant, response_id))).one_or_none()
            if response is None or job is None:
                return None
            body = {**response.body, "status": "in_progress"}
            if body != response.body:
                await self._rewrite(connection, tenant, response_id, body)
            logged = (await connection.execute(statements.events(tenant, response_id))).all()
            return Claim(
                tenant=tenant,
                id=response_id,
                attempt=job.attempt,
                tries=job.tries,
                waits=job.waits,
                created_at=response.created_at,
                body=body,
                request=job.request,
                events=tuple(row.event for row in logged),
                sampled=_ids(b"".join(row.sampled or b"" for row in logged)),
            )

    async def append(self, claim: Claim, events: Sequence[Event], sampled: Sampled | None = None) -> None:
        async with self._database.reading() as connection:
            await self._log(connection, claim, events, sampled)

    async def save(self, claim: Claim, turn: Turn, events: Sequence[Event]) -> None:
        async with self._database.transaction() as connection:
            await self._lock(connection, claim.tenant, claim.id)
            await self._log(connection, claim, events)
            await connection.execute(statements.end(claim.tenant, claim.id))
            await write_turn(connection, turn, begun=True)

    async def fail(self, claim: Claim, body: dict[str, Any], events: Sequence[Event]) -> None:
        async with self._database.transaction() as connection:
            await self._lock(connection, claim.tenant, claim.id)
            await self._log(connection, claim, events)
            await connection.execute(statements.end(claim.tenant, claim.id))
            await self._rewrite(connection, claim.tenant, claim.id, body)

    async def release(self, claim: Claim, *, tries: int, waits: int) -> None:
        put_off = update(BackgroundJobRow).where(statements.held_by(claim))
        put_off = put_off.values(state=statements.WAITING, tries=tries, waits=waits)
        await self._database.write(put_off, {})

    async def cancel(self, tenant: TenantId, response_id: ResponseId) -> None:
        async with self._database.transaction() as connection:
            response = await self._lock(connection, tenant, response_id)
            ended = (await connection.execute(statements.end(tenant, response_id))).one_or_none()
            if response is not None and ended is not None:
                body = {**response.body, "status": "cancelled"}
                await self._rewrite(connection, tenant, response_id, body)

    async def log(self, tenant: TenantId, response_id: ResponseId, after: int) -> LogPage | None:
        if not possible(response_id):
            return None
        page = statements.log(tenant, response_id, after, PAGE_EVENTS)
        async with self._database.reading() as connection:
            row = (await connection.execute(page)).one_or_none()
        if row is None:
            return None
        return LogPage(tuple(row.events or ()), row.last, row.state == statements.ENDED)

    async def unended(
        self, older_than_s: float, most: int
    ) -> list[tuple[TenantId, ResponseId, ConversationId | None]]:
        job, age = BackgroundJobRow, timedelta(seconds=older_than_s)
        own = and_(ResponseRow.tenant_id == job.tenant_id, ResponseRow.id == job.response_id)
        conversation = ResponseRow.body["conversation"]["id"].as_string()
        left = select(job.tenant_id, job.response_id, conversation.label("conversation"))
        left = left.join(ResponseRow, own).order_by(ResponseRow.created_at).limit(most)
        left = left.where(job.state != statements.ENDED, ResponseRow.created_at < func.now() - literal(age))
        async with self._database.reading() as connection:
            rows = (await connection.execute(left)).all()
        return [(row.tenant_id, row.response_id, row.conversation) for row in rows]

    @asynccontextmanager
    async def sweeping(self) -> AsyncIterator[bool]:
        async with self._database.transaction() as connection:
            mine = await connection.execute(select(func.pg_try_advisory_xact_lock(SWEEP_LOCK)))
            yield mine.scalar_one()

    async def _lock(self, connection: AsyncConnection, tenant: TenantId, response_id: ResponseId) -> Any:
        """Its body and age, and no deletion until the transaction ends; None where it is gone."""
        return (await connection.execute(statements.lock(tenant, response_id))).one_or_none()

    async def _log(
        self,
        connection: AsyncConnection,
        claim: Claim,
        events: Sequence[Event],
        sampled: Sampled | None = None,
    ) -> None:
        numbers = [event["sequence_number"] for event in events]
        ids = sampled or {}
        values = {
            "tenant_id": claim.tenant,
            "response_id": claim.id,
            "attempt": claim.attempt,
            "numbers": numbers,
            "events": list(events),
            "sampled": [_packed(ids[number]) if number in ids else None for number in numbers],
        }
        if not (await connection.execute(_LOGGING, values)).scalar_one():
            raise Superseded

    async def _rewrite(
        self, connection: AsyncConnection, tenant: TenantId, response_id: ResponseId, body: dict[str, Any]
    ) -> None:
        own = (ResponseRow.tenant_id == tenant, ResponseRow.id == response_id)
        await connection.execute(update(ResponseRow).where(*own).values(body=body))


def _packed(ids: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(ids)}i", *ids)


def _ids(packed: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(packed) // 4}i", packed)


def _rows(key: dict[str, Any], events: Sequence[Event]) -> list[dict[str, Any]]:
    return [{**key, "sequence_number": event["sequence_number"], "event": event} for event in events]
