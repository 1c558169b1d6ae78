"""Stores, and a tenant of each test's own."""

import secrets

import pytest

from app.conversation.records import ResponseStore, TenantId
from app.store.database import Database
from app.store.memory import MemoryResponseStore
from app.store.responses import PostgresResponseStore


@pytest.fixture(params=["memory", "postgres"])
def store(request: pytest.FixtureRequest) -> ResponseStore:
    if request.param == "memory":
        return MemoryResponseStore()
    database: Database = request.getfixturevalue("database")
    return PostgresResponseStore(database)


@pytest.fixture
def tenant() -> TenantId:
    return TenantId(f"tenant_{secrets.token_hex(4)}")
