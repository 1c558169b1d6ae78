"""Responses in Postgres: the adapter behind the `ResponseStore` port.

Each reading call is one statement, and so is saving a turn; deleting is a transaction, of a number of
statements that no history makes larger.
"""

import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import ColumnElement, delete, exc, insert, literal, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from app.conversation.records import (
    Checkpoint,
    Item,
    ItemPage,
    Paging,
    Parent,
    ResponseId,
    ResponsePage,
    Segment,
    StoredResponse,
    TenantId,
    Turn,
)
from app.errors import PreviousResponseNotFound
from app.store import statements
from app.store.conversations import append
from app.store.database import Database
from app.store.models import (
    INPUT,
    OUTPUT,
    PARENT_FK,
    SEED_FK,
    TABLES,
    BackgroundJobRow,
    CheckpointRow,
    ItemRow,
    KeyRow,
    ResponseRow,
)
from app.store.packing import checkpoint_values, item_key, possible, possible_after, unpack_proof
from app.store.paging import page_of

_PARENT = statements.live_parent()
_SAVING = {
    (with_checkpoint, begun): statements.saving(with_checkpoint=with_checkpoint, begun=begun)
    for with_checkpoint in (True, False)
    for begun in (True, False)
}
_SAVING_SEED = insert(TABLES["seeds"])


class PostgresResponseStore:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def parent(self, tenant: TenantId, response_id: ResponseId) -> Parent | None:
        if not possible(response_id):
            return None
        async with self._database.reading() as connection:
            found = await connection.execute(_PARENT, {"tenant_id": tenant, "response_id": response_id})
            row = found.one_or_none()
        if row is None:
            return None
        checkpoint = _checkpoint(row) if row.ref is not None else None
        return Parent(_response(row), tuple(row.output_items or ()), checkpoint)

    async def get(
        self, tenant: TenantId, response_id: ResponseId
    ) -> tuple[StoredResponse, tuple[Item, ...]] | None:
        if not possible(response_id):
            return None
        async with self._database.reading() as connection:
            row = (await connection.execute(statements.live_response(tenant, response_id))).one_or_none()
        return None if row is None else (_response(row), tuple(row.output_items or ()))

    async def history(self, tenant: TenantId, response_id: ResponseId) -> list[Segment]:
        """Raises PreviousResponseNotFound where it is gone: no turns would pass for a new conversation."""
        if not possible(response_id):
            raise _gone(response_id)
        async with self._database.reading() as connection:
            rows = (await connection.execute(statements.history(tenant, response_id))).all()
        if not rows:
            raise _gone(response_id)
        return [Segment(tuple(row.input_items or ()), tuple(row.output_items or ())) for row in rows]

    async def save(self, turn: Turn) -> None:
        """Raises PreviousResponseNotFound where the parent was removed since it was read, ConversationBusy
        where the lease of its conversation was lost.

        A parent that is a tombstone by now is as good as a live one.
        """
        if turn.appended is not None:
            async with self._database.transaction() as connection:
                await write_turn(connection, turn)
            return
        with _knowing_parent(turn):
            await self._database.write(_SAVING[turn.checkpoint is not None, False], _values(turn))

    async def delete(self, tenant: TenantId, response_id: ResponseId) -> list[Checkpoint] | None:
        if not possible(response_id):
            return None
        own = _of(CheckpointRow, tenant, response_id)
        async with self._database.transaction() as connection:
            # A lock and what depends on it are separate statements: under READ COMMITTED only the second
            # sees what others committed while the first was waiting.
            await connection.execute(statements.lock_conversation(tenant, response_id))
            locked = await connection.execute(statements.lock_deletable(tenant, response_id))
            if not locked.all():
                return None
            # With its log; who makes the response notices.
            jobs = _of(BackgroundJobRow, tenant, response_id)
            await connection.execute(delete(BackgroundJobRow).where(*jobs))
            lost = await connection.execute(
                delete(CheckpointRow).where(*own).returning(*statements.CHECKPOINT)
            )
            ids = (await connection.execute(statements.removable(tenant, response_id))).scalars().all()
            if ids:
                mine = (ResponseRow.tenant_id == tenant, ResponseRow.id.in_(ids))
                await connection.execute(delete(ResponseRow).where(*mine))
            else:
                await connection.execute(statements.bury(tenant, response_id))
            return [_checkpoint(row) for row in lost]

    async def save_seed(self, tenant: TenantId, response_id: ResponseId, seed: bytes) -> None:
        row = {"tenant_id": tenant, "response_id": response_id, "seed": seed}
        try:
            await self._database.write(_SAVING_SEED, row)
        except exc.IntegrityError as error:
            if SEED_FK not in str(error.orig):
                raise

    async def seeds(self, tenant: TenantId, response_id: ResponseId) -> list[bytes]:
        if not possible(response_id):
            return []
        async with self._database.reading() as connection:
            return list((await connection.execute(statements.seeds(tenant, response_id))).scalars())

    async def items(self, tenant: TenantId, item_ids: Collection[str]) -> dict[str, Item]:
        ids = [item_id for item_id in item_ids if possible(item_id)]
        async with self._database.reading() as connection:
            rows = (await connection.execute(statements.items(tenant, ids))).all()
        return {row.id: row.item for row in rows if row.item is not None}

    async def input_items(self, tenant: TenantId, response_id: ResponseId, paging: Paging) -> ItemPage | None:
        if not possible(response_id):
            return None
        async with self._database.reading() as connection:
            found = await connection.execute(
                statements.input_items(tenant, response_id, possible_after(paging))
            )
            row = found.one_or_none()
        return None if row is None else ItemPage(*page_of(row.page or (), paging))

    async def responses(self, tenant: TenantId, paging: Paging) -> ResponsePage:
        page = statements.responses(tenant, possible_after(paging))
        async with self._database.reading() as connection:
            rows = (await connection.execute(page)).all()
        listed = ((_response(row), tuple(row.output_items or ())) for row in rows)
        return ResponsePage(*page_of(tuple(listed), paging))

    async def key(self, name: str) -> bytes:
        new = upsert(KeyRow).values(name=name, value=secrets.token_bytes(32)).on_conflict_do_nothing()
        async with self._database.transaction() as connection:
            await connection.execute(new)
            return (await connection.execute(select(KeyRow.value).where(KeyRow.name == name))).scalar_one()

    async def ping(self) -> None:
        async with self._database.reading() as connection:
            await connection.execute(select(literal(1)))


async def write_turn(connection: AsyncConnection, turn: Turn, *, begun: bool = False) -> None:
    """As part of a transaction. begun: its response is there already. Raises as `save` does."""
    if turn.appended is not None:
        await append(connection, turn.response.tenant, turn.appended, turn.response.id)
    if begun:
        await connection.execute(delete(ItemRow).where(*_of(ItemRow, turn.response.tenant, turn.response.id)))
    with _knowing_parent(turn):
        await connection.execute(_SAVING[turn.checkpoint is not None, begun], _values(turn))


@contextmanager
def _knowing_parent(turn: Turn) -> Iterator[None]:
    try:
        yield
    except exc.IntegrityError as error:
        if PARENT_FK not in str(error.orig):
            raise
        raise _gone(turn.response.previous_response_id) from error


def _of(rows: Any, tenant: TenantId, response_id: ResponseId) -> tuple[ColumnElement[bool], ...]:
    """What belongs to a response."""
    return rows.tenant_id == tenant, rows.response_id == response_id


def _gone(response_id: ResponseId | None) -> PreviousResponseNotFound:
    message = f"Previous response with id {response_id!r} not found."
    return PreviousResponseNotFound(message, param="previous_response_id")


def _response(row: Any) -> StoredResponse:
    return StoredResponse(
        id=row.id,
        tenant=row.tenant_id,
        root_id=row.root_id,
        previous_response_id=row.previous_response_id,
        created_at=row.created_at,
        body=row.body,
    )


def _checkpoint(row: Any) -> Checkpoint:
    return Checkpoint(
        ref=row.ref,
        prefix_hash=row.prefix_hash,
        token_count=row.token_count,
        fingerprint=row.fingerprint,
        proof=unpack_proof(row.proof),
        worker=row.worker,
        expires_at=row.expires_at,
    )


def _values(turn: Turn) -> dict[str, Any]:
    """The parameters of `statements.saving`."""
    response, checkpoint = turn.response, turn.checkpoint
    sides = ((INPUT, turn.input_items), (OUTPUT, turn.output_items))
    items = [(side, place, item) for side, listed in sides for place, item in enumerate(listed)]
    values = {
        "responses_tenant_id": response.tenant,
        "responses_id": response.id,
        "responses_root_id": response.root_id,
        "responses_previous_response_id": response.previous_response_id,
        "responses_created_at": response.created_at,
        "responses_body": response.body,
        "items_direction": [side for side, _, _ in items],
        "items_position": [place for _, place, _ in items],
        "items_item": [item for _, _, item in items],
        "items_item_id": [item_key(item) for _, _, item in items],
    }
    kept = checkpoint_values(checkpoint) if checkpoint else {}
    return values | {f"checkpoints_{name}": value for name, value in kept.items()}
