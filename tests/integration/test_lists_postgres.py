"""What only Postgres can get wrong in lists: the number of statements, the rows they read, shared secrets."""

import asyncio
import re
from dataclasses import replace

import pytest
from sqlalchemy import text

from app.conversation.records import Paging, ResponseId, TenantId, Turn
from app.store import migrate
from app.store.database import Database
from app.store.responses import PostgresResponseStore
from tests.integration.statements import plans, statements
from tests.integration.stored_turns import message, saved, turn


@pytest.fixture
def store(database: Database) -> PostgresResponseStore:
    return PostgresResponseStore(database)


async def chain(store: PostgresResponseStore, tenant: TenantId, length: int) -> list[Turn]:
    turns: list[Turn] = []
    for n in range(length):
        turns.append(await saved(store, tenant, f"r{n}", turns[-1] if turns else None, at=n))
    return turns


async def test_each_page_is_one_statement(
    store: PostgresResponseStore, database: Database, tenant: TenantId
) -> None:
    turns = await chain(store, tenant, 5)
    with statements(database) as seen:
        for paging in (Paging(2), Paging(2, after="msg_r2_0"), Paging(2, True, "msg_r2_0")):
            await store.input_items(tenant, turns[-1].response.id, paging)
        for paging in (Paging(2), Paging(2, after="r2"), Paging(2, True, "r2")):
            await store.responses(tenant, paging)
        await store.items(tenant, ["msg_r0_0", "msg_r1_1", "nope"])
    assert seen == ["WITH"] * 3 + ["SELECT"] * 4


async def fill(database: Database, tenant: TenantId, responses: int) -> None:
    """Rows of another's, or the planner rightly scans."""
    series = f"FROM generate_series(1, {responses}) AS n"
    columns = f"SELECT :tenant, 'filled_' || n, 'filled_' || n, NULL, now(), NULL, '{{}}' {series}"
    item = f"SELECT :tenant, 'filled_' || n, 'input', 0, '{{}}', 'filled_' || n {series}"
    async with database.transaction() as connection:
        await connection.execute(text(f"INSERT INTO responses {columns}"), {"tenant": tenant})
        await connection.execute(text(f"INSERT INTO items {item}"), {"tenant": tenant})


async def test_lists_scan_no_table_and_no_more_responses_than_a_page(
    empty_database: Database, tenant: TenantId
) -> None:
    database, store = empty_database, PostgresResponseStore(empty_database)
    await migrate.upgrade(database)
    await fill(database, TenantId(f"{tenant}_x"), 20_000)
    turns = await chain(store, tenant, 60)
    last = turns[-1].response.id
    for paging in (Paging(20), Paging(20, after="msg_r9_0")):
        (plan,) = await plans(database, store.input_items(tenant, last, paging))
        assert "Seq Scan" not in plan, plan
    (plan,) = await plans(database, store.items(tenant, ["msg_r0_0", "msg_r1_1"]))
    assert "Seq Scan" not in plan and "ix_items_item_id" in plan, plan
    for paging in (Paging(20), Paging(20, after="r50"), Paging(20, True, "r9")):
        page = store.responses(tenant, paging)
        (plan,) = await plans(database, page, options="(ANALYZE, TIMING OFF)")
        scan = next(line for line in plan.splitlines() if "ix_responses_live" in line)
        assert re.search(rf"actual rows={20 + 1 + (paging.after is not None)}\b", scan), plan


async def test_ids_of_any_length_and_number(store: PostgresResponseStore, tenant: TenantId) -> None:
    """An index cannot hold the longest; a statement cannot have a parameter for each of so many."""
    long = "m" * 100_000
    await store.save(replace(turn(tenant, "a"), input_items=(message("user", "x", long),)))
    assert await store.items(tenant, [long]) == {}
    many = [f"msg_{n}" for n in range(40_000)]
    assert await store.items(tenant, [*many, "msg_a_2"]) == {
        "msg_a_2": message("assistant", "out a", "msg_a_2")
    }


async def test_services_that_start_at_once_have_the_same_key(database: Database, tenant: TenantId) -> None:
    url = database.engine.url.render_as_string(hide_password=False)
    others = [Database(url) for _ in range(4)]
    keys = await asyncio.gather(*(PostgresResponseStore(other).key(tenant) for other in others * 3))
    assert len(set(keys)) == 1
    for other in others:
        await other.close()
    assert await PostgresResponseStore(database).key(tenant) == keys[0]


async def test_a_row_of_an_unlisted_tenant_is_read_by_no_list(
    store: PostgresResponseStore, database: Database, tenant: TenantId
) -> None:
    """Its items may even have the same ids and be of responses with the same ids."""
    stranger = TenantId(f"{tenant}_x")
    await chain(store, stranger, 3)
    (mine,) = await chain(store, tenant, 1)
    async with database.transaction() as connection:
        tampered = 'UPDATE items SET item = \'{"id": "stolen"}\' WHERE tenant_id = :tenant'
        await connection.execute(text(tampered), {"tenant": stranger})
    page = await store.input_items(tenant, ResponseId("r0"), Paging(ascending=True))
    assert page is not None and page.items == mine.input_items
    ids = [item["id"] for item in mine.input_items]
    assert list((await store.items(tenant, ids)).values()) == list(mine.input_items)
    listed = await store.responses(tenant, Paging())
    assert [output for _, output in listed.responses] == [mine.output_items]
