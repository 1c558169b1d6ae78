"""Bring a database to a version of the schema, with alembic's API and no alembic.ini.

Migrations run in one transaction under an advisory lock: services that start at once take turns, and a
migration that fails leaves nothing behind.
"""

from collections.abc import Callable
from importlib.resources import files

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, select

from app.store.database import Database

LOCK_KEY = 0x6D61726769  # "margi"; any number that nobody else locks in this database


async def upgrade(database: Database, revision: str = "head") -> None:
    """Raises StoreUnavailable where the database cannot be reached."""
    await _run(database, lambda config: command.upgrade(config, revision))


async def downgrade(database: Database, revision: str) -> None:
    """To `revision`, or `-1` for one step, or `base` for an empty database. Drops what later ones made."""
    await _run(database, lambda config: command.downgrade(config, revision))


async def current(database: Database) -> str | None:
    """The database's version; None where it was never migrated."""
    async with database.reading() as connection:
        return await connection.run_sync(lambda c: MigrationContext.configure(c).get_current_revision())


def head() -> str | None:
    """The version that this code needs."""
    return ScriptDirectory.from_config(_config()).get_current_head()


async def _run(database: Database, migrate: Callable[[Config], None]) -> None:
    def under_lock(connection: Connection) -> None:
        connection.execute(select(func.pg_advisory_xact_lock(LOCK_KEY)))
        config = _config()
        config.attributes["connection"] = connection
        migrate(config)

    # To fill a column, or to wait for one who does, may take longer than any request should.
    patient = Database(database.engine.url.render_as_string(hide_password=False), command_timeout=None)
    try:
        async with patient.transaction() as connection:
            await connection.run_sync(under_lock)
    finally:
        await patient.close()


def _config() -> Config:
    config = Config()
    config.set_main_option("path_separator", "os")
    # ConfigParser would take a percent sign in the path for an interpolation.
    config.set_main_option("script_location", str(files("migrations")).replace("%", "%%"))
    return config
