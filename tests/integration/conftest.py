"""Stores, and a tenant of each test's own."""

import secrets
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from app.conversation.records import ResponseStore, TenantId
from app.store.database import Database
from app.store.memory import MemoryResponseStore
from app.store.responses import PostgresResponseStore
from tests.conftest import migrated_database


@pytest_asyncio.fixture(scope="session")
async def database(postgres_url: str) -> AsyncIterator[Database]:
    """One migrated database for these tests, which no service uses: it would take their jobs, and sweep."""
    async for database in migrated_database(postgres_url):
        yield database


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> ResponseStore:
    if request.param == "memory":
        return MemoryResponseStore()
    database: Database = request.getfixturevalue("database")
    return PostgresResponseStore(database)


@pytest.fixture
def tenant() -> TenantId:
    return TenantId(f"tenant_{secrets.token_hex(4)}")
