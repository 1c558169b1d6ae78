"""What only Postgres can get wrong: atomicity, races, the number of statements, lost connections."""

import asyncio
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from app.conversation.records import Checkpoint, Paging, ResponseId, TenantId, Turn
from app.errors import PreviousResponseNotFound, StoreUnavailable
from app.local.postgres import EmbeddedPostgres
from app.store import migrate
from app.store.database import Database
from app.store.responses import PostgresResponseStore
from tests.integration.statements import plans, statements
from tests.integration.stored_turns import PROOF, saved, segment, turn


@pytest.fixture
def store(database: Database) -> PostgresResponseStore:
    return PostgresResponseStore(database)


async def rows(database: Database, tenant: TenantId) -> dict[str, int]:
    found = {}
    async with database.reading() as connection:
        for table in NOTHING:
            count = text(f"SELECT count(*) FROM {table} WHERE tenant_id = :tenant")
            found[table] = (await connection.execute(count, {"tenant": tenant})).scalar_one()
    return found


NOTHING = {"responses": 0, "items": 0, "checkpoints": 0, "seeds": 0}


async def blocked(database: Database) -> int:
    """How many statements in this database wait for a lock."""
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = :name")
    async with database.reading() as connection:
        found = await connection.execute(waiting, {"name": database.engine.url.database})
        return int(found.scalar_one())


async def started(work: Awaitable[Any], database: Database) -> "asyncio.Future[Any]":
    """`work` as a task that has ended or come as far as a lock in its way; pytest ends a wait in vain."""
    before = await blocked(database)
    task = asyncio.ensure_future(work)
    while not task.done() and await blocked(database) <= before:
        await asyncio.wait({task}, timeout=0.01)
    return task


async def test_a_turn_that_fails_in_its_last_table_leaves_nothing(
    store: PostgresResponseStore, database: Database, tenant: TenantId
) -> None:
    whole = turn(tenant, "a")
    assert whole.checkpoint is not None
    broken = replace(whole, checkpoint=replace(whole.checkpoint, ref=None))  # type: ignore[arg-type]
    with pytest.raises(IntegrityError, match='null value in column "ref" of relation "checkpoints"'):
        await store.save(broken)
    assert await rows(database, tenant) == NOTHING
    await store.save(whole)
    assert await rows(database, tenant) == {"responses": 1, "items": 3, "checkpoints": 1, "seeds": 0}


async def test_a_cancelled_save_leaves_nothing(
    store: PostgresResponseStore, database: Database, tenant: TenantId
) -> None:
    parent = await saved(store, tenant, "parent")
    before = await rows(database, tenant)
    async with database.transaction() as other:
        await other.execute(text("LOCK TABLE checkpoints IN EXCLUSIVE MODE"))
        save = await started(store.save(turn(tenant, "a", parent)), database)
        save.cancel()
        with pytest.raises(asyncio.CancelledError):
            await save
    assert await rows(database, tenant) == before
    again = await saved(store, tenant, "a", parent)
    assert await store.history(tenant, again.response.id) == [segment(parent), segment(again)]


async def test_a_proof_that_is_no_hash_is_refused(store: PostgresResponseStore, tenant: TenantId) -> None:
    whole = turn(tenant, "a")
    assert whole.checkpoint is not None
    for text_hash in ("ab", "AB" * 16, "ab " * 16, "zz" * 16):
        proof = (PROOF[0]._replace(text_hash=text_hash),)
        with pytest.raises(ValueError, match="hex"):
            await store.save(replace(whole, checkpoint=replace(whole.checkpoint, proof=proof)))
    assert await store.get(tenant, whole.response.id) is None


async def test_a_turns_statements_do_not_grow_with_the_history(
    store: PostgresResponseStore, database: Database, tenant: TenantId
) -> None:
    last: Turn | None = None
    for n in range(60):
        with statements(database) as seen:
            if last is not None:
                await store.parent(tenant, last.response.id)
            last = await saved(store, tenant, f"r{n}", last)
        reads = ["SELECT"] if n else []
        assert seen == [*reads, "WITH"], "no more, and no transaction to begin and end"


async def test_a_history_is_one_statement(
    store: PostgresResponseStore, database: Database, tenant: TenantId
) -> None:
    last = await saved(store, tenant, "r0")
    for n in range(1, 20):
        last = await saved(store, tenant, f"r{n}", last)
    with statements(database) as seen:
        await store.history(tenant, last.response.id)
        await store.seeds(tenant, last.response.id)
    assert seen == ["WITH", "WITH"]


async def test_reading_has_no_transaction_to_begin_and_end(database: Database) -> None:
    started_at = text("SELECT transaction_timestamp()")
    async with database.reading() as connection:
        first = (await connection.execute(started_at)).scalar_one()
        assert (await connection.execute(started_at)).scalar_one() != first


async def test_reading_a_parent_scans_no_table(
    store: PostgresResponseStore, database: Database, tenant: TenantId
) -> None:
    """With many rows, or the planner rightly scans."""
    last = await saved(store, tenant, "r0")
    for n in range(1, 300):
        last = await saved(store, tenant, f"r{n}", last)
    for plan in await plans(database, store.parent(tenant, last.response.id)):
        assert "Seq Scan" not in plan, plan


async def test_no_transaction_stays_open(
    store: PostgresResponseStore, database: Database, tenant: TenantId
) -> None:
    made = await saved(store, tenant, "a")
    await store.parent(tenant, made.response.id)
    await store.history(tenant, made.response.id)
    await store.get(tenant, made.response.id)
    await store.delete(tenant, made.response.id)
    with pytest.raises(PreviousResponseNotFound):
        await store.save(turn(tenant, "b", made))
    idle = text(
        "SELECT state FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid() "
        "AND backend_type = 'client backend'"
    )
    async with database.reading() as connection:
        states = (await connection.execute(idle, {"name": database.engine.url.database})).scalars().all()
    assert set(states) <= {"idle"}


async def test_a_child_saved_during_the_deletion_of_its_parent(
    store: PostgresResponseStore, database: Database, tenant: TenantId
) -> None:
    """The child comes first: the deletion waits for it and leaves a tombstone."""
    parent = await saved(store, tenant, "parent")
    child = "INSERT INTO responses SELECT tenant_id, 'child', id, id, created_at, NULL, body FROM responses"
    async with database.transaction() as saving:
        await saving.execute(text(f"{child} WHERE tenant_id = :tenant"), {"tenant": tenant})
        deletion = await started(store.delete(tenant, parent.response.id), database)
    assert await deletion == [parent.checkpoint]
    assert len(await store.history(tenant, ResponseId("child"))) == 2


async def test_a_parent_deleted_during_the_save_of_its_child(
    store: PostgresResponseStore, database: Database, tenant: TenantId
) -> None:
    """The deletion comes first: the save waits for it and is refused."""
    parent = await saved(store, tenant, "parent")
    async with database.transaction() as deleting:
        await deleting.execute(text("DELETE FROM responses WHERE tenant_id = :tenant"), {"tenant": tenant})
        save = await started(store.save(turn(tenant, "child", parent)), database)
    with pytest.raises(PreviousResponseNotFound):
        await save
    assert await rows(database, tenant) == NOTHING


async def test_a_tombstone_made_while_its_last_child_is_deleted_goes_too(
    store: PostgresResponseStore, database: Database, tenant: TenantId
) -> None:
    """Two deletions in one conversation take turns, else each would leave the parent to the other."""
    root = await saved(store, tenant, "root")
    child = await saved(store, tenant, "child", root)
    async with database.transaction() as other:
        lock = text("SELECT 1 FROM items WHERE tenant_id = :tenant AND response_id = :id FOR UPDATE")
        await other.execute(lock, {"tenant": tenant, "id": "child"})
        # It has found its parent live, and stands still before it removes itself.
        leaf = await started(store.delete(tenant, child.response.id), database)
        parent = await started(store.delete(tenant, root.response.id), database)
    assert [await leaf, await parent] == [[child.checkpoint], [root.checkpoint]]
    assert await rows(database, tenant) == NOTHING


async def test_a_seed_written_during_the_deletion_of_its_response(
    store: PostgresResponseStore, database: Database, tenant: TenantId
) -> None:
    """Whichever comes first, none is left: also of a response that stays as a tombstone."""
    root = await saved(store, tenant, "root")
    leaf = await saved(store, tenant, "leaf", root)
    seed = "INSERT INTO seeds VALUES (:tenant, :id, 'ids')"
    async with database.transaction() as writing:
        await writing.execute(text(seed), {"tenant": tenant, "id": "root"})
        deletion = await started(store.delete(tenant, root.response.id), database)
    assert await deletion == [root.checkpoint]
    assert (await rows(database, tenant))["seeds"] == 0
    async with database.transaction() as deleting:
        await deleting.execute(text("DELETE FROM checkpoints WHERE tenant_id = :tenant"), {"tenant": tenant})
        write = await started(store.save_seed(tenant, leaf.response.id, b"ids"), database)
    await write
    assert (await rows(database, tenant))["seeds"] == 0


async def test_removing_a_tenants_rows_removes_its_seeds(
    store: PostgresResponseStore, database: Database, tenant: TenantId
) -> None:
    other = TenantId(f"{tenant}_x")
    for owner in (tenant, other):
        root = await saved(store, owner, "root")
        for one in (root, await saved(store, owner, "leaf", root)):
            await store.save_seed(owner, one.response.id, b"ids")
    async with database.transaction() as connection:
        await connection.execute(text("DELETE FROM responses WHERE tenant_id = :tenant"), {"tenant": tenant})
    assert await rows(database, tenant) == NOTHING
    assert (await rows(database, other))["seeds"] == 2


async def test_a_seed_is_one_statement_and_a_second_one_is_an_error(
    store: PostgresResponseStore, database: Database, tenant: TenantId
) -> None:
    made = await saved(store, tenant, "a")
    with statements(database) as seen:
        await store.save_seed(tenant, made.response.id, b"ids")
    assert seen == ["INSERT"]
    with pytest.raises(IntegrityError):
        await store.save_seed(tenant, made.response.id, b"others")
    assert await store.seeds(tenant, made.response.id) == [b"ids"]


async def test_a_whole_conversation_deleted_at_once(
    store: PostgresResponseStore, database: Database, tenant: TenantId
) -> None:
    for n in range(5):
        turns = [await saved(store, tenant, f"{n}-0")]
        for m in range(1, 8):
            turns.append(await saved(store, tenant, f"{n}-{m}", turns[(m - 1) // 2]))
        lost: list[list[Checkpoint] | None] = await asyncio.gather(
            *(store.delete(tenant, t.response.id) for t in turns)
        )
        assert lost == [[t.checkpoint] for t in turns]
    assert await rows(database, tenant) == NOTHING


async def test_deleting_takes_a_constant_number_of_statements(
    store: PostgresResponseStore, database: Database, tenant: TenantId
) -> None:
    counts = set()
    for length in (3, 30):
        turns = [await saved(store, tenant, f"{length}-0")]
        for n in range(1, length):
            turns.append(await saved(store, tenant, f"{length}-{n}", turns[-1]))
        for one in turns[:-1]:
            await store.delete(tenant, one.response.id)
        with statements(database) as seen:
            await store.delete(tenant, turns[-1].response.id)
        counts.add(len(seen))
    assert await rows(database, tenant) == NOTHING
    assert len(counts) == 1


async def test_a_database_that_is_not_there(tenant: TenantId) -> None:
    database = Database("postgresql://user:secret@/db?host=/nonexistent")
    store = PostgresResponseStore(database)
    calls = (
        store.ping(),
        store.get(tenant, ResponseId("a")),
        store.save(turn(tenant, "a")),
        store.delete(tenant, ResponseId("a")),
        store.save_seed(tenant, ResponseId("a"), b"ids"),
        store.seeds(tenant, ResponseId("a")),
        store.items(tenant, ["a"]),
        store.input_items(tenant, ResponseId("a"), Paging()),
        store.responses(tenant, Paging()),
        store.key("a"),
    )
    for call in calls:
        with pytest.raises(StoreUnavailable) as error:
            await call
        assert "secret" not in str(error.value)
    await database.close()


async def test_a_database_that_does_not_exist_on_the_server(postgres_url: str) -> None:
    missing = Database(str(postgres_url).replace("/postgres?", "/missing?"))
    with pytest.raises(StoreUnavailable):
        await PostgresResponseStore(missing).ping()
    await missing.close()


async def test_a_restart_of_postgres_is_survived(data_dir: Path, tenant: TenantId) -> None:
    server = EmbeddedPostgres(data_dir)
    database = Database(await asyncio.to_thread(server.start))
    store = PostgresResponseStore(database)
    try:
        await migrate.upgrade(database)
        made = await saved(store, tenant, "a")
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        assert await store.get(tenant, made.response.id) == (made.response, made.output_items)
        await asyncio.to_thread(server.stop)
        with pytest.raises(StoreUnavailable):
            await store.ping()
        await asyncio.to_thread(server.start)
        assert await store.get(tenant, made.response.id) == (made.response, made.output_items)
    finally:
        await database.close()
        server.stop()


async def test_a_save_cut_off_by_a_crash_leaves_nothing(
    store: PostgresResponseStore, database: Database, tenant: TenantId
) -> None:
    async with database.transaction() as other:
        await other.execute(text("LOCK TABLE checkpoints IN EXCLUSIVE MODE"))
        save = await started(store.save(turn(tenant, "a")), database)
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        await other.execute(text(f"{kill} AND datname = current_database()"))
        with pytest.raises(StoreUnavailable):
            await save
    assert await rows(database, tenant) == NOTHING
