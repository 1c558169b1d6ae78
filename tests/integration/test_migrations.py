"""The schema as migrated, and that migrating is safe to do twice and at once."""

import asyncio
import json
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Engine, Text, bindparam, event, func, inspect, select, text

from app.conversation.records import TenantId
from app.store import migrate
from app.store.database import Database
from app.store.models import Base
from app.store.packing import item_key
from app.store.responses import PostgresResponseStore


async def tables(database: Database) -> set[str]:
    async with database.reading() as connection:
        return set(await connection.run_sync(lambda c: inspect(c).get_table_names()))


async def test_up_down_up(empty_database: Database) -> None:
    assert await migrate.current(empty_database) is None
    await migrate.upgrade(empty_database)
    assert await migrate.current(empty_database) == migrate.head()
    assert await tables(empty_database) == {*Base.metadata.tables, "alembic_version"}
    await migrate.downgrade(empty_database, "base")
    assert await migrate.current(empty_database) is None
    assert await tables(empty_database) == {"alembic_version"}
    await migrate.upgrade(empty_database)
    assert await migrate.current(empty_database) == migrate.head()


async def test_models_equal_the_migrated_schema(database: Database) -> None:
    def differences(connection: Connection) -> list[object]:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return list(compare_metadata(context, Base.metadata))

    async with database.reading() as connection:
        assert await connection.run_sync(differences) == []


MADE = {
    "0002": {"seeds"},
    "0003": {"keys"},
    "0004": {"conversations", "conversation_items"},
    "0005": {"background_jobs", "response_events"},
    "0006": {"contexts"},
}
"""Tables of each step after the first."""


@pytest.mark.parametrize("down_to", ["0001", *MADE])
async def test_steps_down_drop_what_later_ones_made(empty_database: Database, down_to: str) -> None:
    dropped = {table for step, made in MADE.items() for table in made if step > down_to}
    await migrate.upgrade(empty_database)
    await migrate.downgrade(empty_database, down_to)
    assert await tables(empty_database) == {*Base.metadata.tables, "alembic_version"} - dropped
    await migrate.upgrade(empty_database)
    assert await migrate.current(empty_database) == migrate.head()


OLD_ITEMS = [
    ('{"id":"msg_1","type":"message","content":[{"type":"input_text","text":"hi"}]}', "msg_1"),
    ('{"type":"message","id":"msg_2"}', "msg_2"),
    # Postgres itself reads no field of these.
    (r'{"id":"msg_3","text":"a\u0000b"}', "msg_3"),
    (r'{"text":"\u001b and \\u0000","id":"msg_4"}', "msg_4"),
    (r'{"id":"msg\u005f5"}', "msg_5"),
    (r'{"id":"msg_\u0000"}', None),
    ('{"id":"é b\\n"}', "é b\n"),
    (json.dumps({"id": "é" * 256}, ensure_ascii=False), "é" * 256),
    # No ids to be found by.
    (r'{"id":"msg_\ud800"}', None),
    ('{"id":7}', None),
    ('{"text":"{\\"id\\":\\"inner\\"}","more":{"id":"inner"}}', None),
    ('{"id":null}', None),
    ('{"id":""}', None),
    (json.dumps({"id": "m" * 257}), None),
    (json.dumps({"id": "m" * 100_000}), None),
    (r'{"id":"' + "m" * 100_000 + r'","text":"\u0000"}', None),
]


async def test_items_of_before_are_found_by_their_id(empty_database: Database) -> None:
    await migrate.upgrade(empty_database, "0002")
    response = "INSERT INTO responses VALUES ('t', 'r', 'r', NULL, now(), NULL, '{}')"
    item = text("INSERT INTO items VALUES ('t', 'r', 'input', :position, CAST(:item AS json))")
    rows = [{"position": n, "item": json_text} for n, (json_text, _) in enumerate(OLD_ITEMS)]
    async with empty_database.transaction() as connection:
        await connection.execute(text(response))
        await connection.execute(item.bindparams(bindparam("item", type_=Text())), rows)
    await migrate.upgrade(empty_database)
    async with empty_database.reading() as connection:
        found = await connection.execute(
            text("SELECT CAST(item AS text), item_id FROM items ORDER BY position")
        )
        assert [tuple(row) for row in found] == OLD_ITEMS
    ids = [item_id for _, item_id in OLD_ITEMS if item_id]
    items = await PostgresResponseStore(empty_database).items(TenantId("t"), ids)
    assert items == {item_id: json.loads(of) for of, item_id in OLD_ITEMS if item_id}
    await migrate.downgrade(empty_database, "0002")
    async with empty_database.reading() as connection:
        kept = await connection.execute(text("SELECT CAST(item AS text) FROM items ORDER BY position"))
        assert kept.scalars().all() == [json_text for json_text, _ in OLD_ITEMS]


async def test_more_items_than_a_batch(empty_database: Database) -> None:
    """In no order of their keys, and with ids that Postgres cannot read among them."""
    await migrate.upgrade(empty_database, "0002")
    plain, escaped = "json_build_object('id', k)", """json('{"id":"' || k || '","text":"\\u0000"}')"""
    numbers = "generate_series(1, 3333) AS n, LATERAL (SELECT 'msg_' || n) AS id (k) ORDER BY md5(k)"
    fill = f"""
        INSERT INTO responses
            SELECT t, r, r, NULL, now(), NULL, '{{}}'
            FROM unnest('{{a,b}}'::text[]) AS t, unnest('{{x,y}}'::text[]) AS r;
        INSERT INTO items
            SELECT chr(97 + n % 2), chr(120 + n / 2 % 2), CASE WHEN n % 8 < 4 THEN 'input' ELSE 'output' END,
            n / 8, CASE WHEN n % 5 = 0 THEN {escaped} ELSE {plain} END FROM {numbers}
    """
    async with empty_database.transaction() as connection:
        for statement in fill.split(";"):
            await connection.exec_driver_sql(statement)
    read: list[int] = []
    sent: list[int] = []

    def count(_c: object, cursor: Any, statement: str, parameters: Any, _: object, many: bool) -> None:
        if statement.startswith("UPDATE items"):
            sent.append(len(parameters) if many else 1)
        elif "FROM items" in statement:
            read.append(cursor.rowcount)

    event.listen(Engine, "after_cursor_execute", count)
    try:
        await migrate.upgrade(empty_database)
    finally:
        event.remove(Engine, "after_cursor_execute", count)
    assert len(read) > 3 and max(read) <= 1000
    assert len(sent) > 3 and max(sent) <= 1000
    async with empty_database.reading() as connection:
        pairs = text("SELECT item_id, substring(CAST(item AS text), 'msg_[0-9]+') FROM items")
        found = [tuple(row) for row in await connection.execute(pairs)]
        assert len(found) == 3333 and all(filled == held for filled, held in found)


async def test_a_migration_may_take_longer_than_a_command(empty_database: Database) -> None:
    url = empty_database.engine.url.render_as_string(hide_password=False)
    hurried = Database(url, command_timeout=0.2)
    async with empty_database.transaction() as connection:
        await connection.execute(select(func.pg_advisory_xact_lock(migrate.LOCK_KEY)))
        waiting = asyncio.create_task(migrate.upgrade(hurried))
        await asyncio.wait([waiting], timeout=1)
        assert not waiting.done()
    await waiting
    assert await migrate.current(empty_database) == migrate.head()
    await hurried.close()


def test_old_and_new_items_have_their_ids_by_the_same_rule() -> None:
    for json_text, item_id in OLD_ITEMS:
        assert item_key(json.loads(json_text)) == item_id


async def test_upgrades_at_once_take_turns(empty_database: Database) -> None:
    others = [Database(str(empty_database.engine.url)) for _ in range(3)]
    await asyncio.gather(*(migrate.upgrade(other) for other in others))
    assert await migrate.current(empty_database) == migrate.head()
    for other in others:
        await other.close()


async def test_the_lock_is_free_afterwards(empty_database: Database) -> None:
    await migrate.upgrade(empty_database)
    async with empty_database.reading() as connection:
        here = "SELECT oid FROM pg_database WHERE datname = current_database()"
        held = f"SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND database = ({here})"
        taken = await connection.execute(text(held))
        assert taken.scalar() == 0


async def test_a_failing_migration_leaves_nothing(empty_database: Database) -> None:
    async with empty_database.transaction() as connection:
        # In the way of the last table.
        await connection.execute(text("CREATE TABLE seeds (x int)"))
    try:
        await migrate.upgrade(empty_database)
    except Exception as error:
        assert "seeds" in str(error)
    else:
        raise AssertionError("the migration should have failed")
    assert await tables(empty_database) == {"seeds"}
