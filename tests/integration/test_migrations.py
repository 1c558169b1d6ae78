"""The schema as migrated, and that migrating is safe to do twice and at once."""

import asyncio

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, inspect, text

from app.store import migrate
from app.store.database import Database
from app.store.models import Base


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


async def test_a_step_down_drops_the_seeds_alone(empty_database: Database) -> None:
    await migrate.upgrade(empty_database)
    await migrate.downgrade(empty_database, "0001")
    assert await tables(empty_database) == {*Base.metadata.tables, "alembic_version"} - {"seeds"}
    await migrate.upgrade(empty_database)
    assert await migrate.current(empty_database) == migrate.head()


async def test_upgrades_at_once_take_turns(empty_database: Database) -> None:
    others = [Database(str(empty_database.engine.url)) for _ in range(3)]
    await asyncio.gather(*(migrate.upgrade(other) for other in others))
    assert await migrate.current(empty_database) == migrate.head()
    for other in others:
        await other.close()


async def test_the_lock_is_free_afterwards(empty_database: Database) -> None:
    await migrate.upgrade(empty_database)
    async with empty_database.reading() as connection:
        taken = await connection.execute(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"))
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
