"""DATABASE_URL: what is taken, and that nothing in it is dropped in silence or shown."""

import pytest

from app.errors import SetupError
from app.store.database import normalise_url


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_every_usual_scheme(scheme: str) -> None:
    url = normalise_url(f"{scheme}://user:p%40ss@host:1234/db")
    assert url.drivername == "postgresql+asyncpg"
    assert (url.username, url.password, url.host, url.port, url.database) == (
        "user",
        "p@ss",
        "host",
        1234,
        "db",
    )


def test_sslmode_is_what_asyncpg_calls_ssl() -> None:
    assert normalise_url("postgres://h/db?sslmode=require").query == {"ssl": "require"}


def test_a_socket_directory() -> None:
    assert normalise_url("postgres:///db?host=/run/pg").query == {"host": "/run/pg"}


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:secret@h/db",
        "postgresql+psycopg://u:secret@h/db",
        "secret",
        "",
        "postgres://u:secret@h:port/db",
        "postgres://u:secret@h/db?channel_binding=require",
    ],
)
def test_anything_else_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(SetupError) as error:
        normalise_url(url)
    assert "DATABASE_URL" in error.value.message
    assert "secret" not in error.value.message + error.value.hint
