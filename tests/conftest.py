"""Fixtures that need a real Postgres: DATABASE_URL where it is set, else one of our own."""

import os
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings
from sqlalchemy import text

from app.local.postgres import EmbeddedPostgres
from app.store import database as databases
from app.store import migrate
from app.store.database import Database, normalise_url

# A plugin and no conftest: tests/e2e and tests/clients share its vLLM server.
pytest_plugins = ["tests.e2e.servers"]

# A machine that stalls fails no test.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
databases.CONNECT_TIMEOUT_SECONDS = databases.POOL_TIMEOUT_SECONDS = 60.0


@pytest.fixture(scope="session")
def reachable_dir() -> Iterator[Path]:
    """A directory that `nobody` can enter, unlike tmp_path: there Postgres runs as him where we are root."""
    path = Path(tempfile.mkdtemp(prefix="marginalia-test-"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def data_dir(reachable_dir: Path) -> Path:
    """A data directory of the test's own; nothing is in it."""
    path = reachable_dir / secrets.token_hex(4)
    path.mkdir()
    return path


@pytest.fixture(scope="session")
def postgres_url(reachable_dir: Path) -> Iterator[str]:
    """A server on which databases may be created."""
    if url := os.environ.get("DATABASE_URL"):
        yield url
        return
    with EmbeddedPostgres(reachable_dir / "session") as url:
        yield url


async def _on_server(url: str, statement: str) -> None:
    server = Database(url)
    async with server.reading() as connection:
        await connection.execute(text(statement))
    await server.close()


async def new_database(url: str) -> AsyncIterator[Database]:
    name = f"test_{secrets.token_hex(6)}"
    await _on_server(url, f"CREATE DATABASE {name}")
    database = Database(normalise_url(url).set(database=name).render_as_string(hide_password=False))
    yield database
    await database.close()
    await _on_server(url, f"DROP DATABASE {name} WITH (FORCE)")


async def migrated_database(url: str) -> AsyncIterator[Database]:
    async for database in new_database(url):
        await migrate.upgrade(database)
        yield database


@pytest_asyncio.fixture
async def empty_database(postgres_url: str) -> AsyncIterator[Database]:
    """A database of the test's own, without a schema."""
    async for database in new_database(postgres_url):
        yield database


@pytest_asyncio.fixture(scope="session")
async def database(postgres_url: str) -> AsyncIterator[Database]:
    """One migrated database for the session; tests keep apart by tenant."""
    async for database in migrated_database(postgres_url):
        yield database
