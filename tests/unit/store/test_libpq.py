"""The queue library reaches the database that the service does."""

import pytest

from app.errors import SetupError
from app.store.database import libpq_parameters


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (
            "postgres://user:p%40ss@db:5433/name?sslmode=require",
            {
                "host": "db",
                "port": 5433,
                "user": "user",
                "password": "p@ss",
                "dbname": "name",
                "sslmode": "require",
            },
        ),
        (
            "postgresql+asyncpg://postgres@/name?host=/tmp/socket&port=5432",
            {"host": "/tmp/socket", "port": "5432", "user": "postgres", "dbname": "name"},
        ),
    ],
)
def test_it_is_the_same_database(url: str, expected: dict[str, object]) -> None:
    given = libpq_parameters(url)
    assert {name: given[name] for name in given.keys() - {"application_name", "connect_timeout"}} == expected


def test_what_would_not_take_effect_is_refused() -> None:
    with pytest.raises(SetupError):
        libpq_parameters("postgresql://db/name?target_session_attrs=any")
