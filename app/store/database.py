"""The connection to Postgres: one pool, three ways to use it, and the only place that commits.

Everything that means "the database cannot be reached" becomes StoreUnavailable here and nowhere else.
"""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from sqlalchemy import URL, Executable, event, exc
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from app.errors import SetupError, StoreUnavailable

POOL_SIZE = 10
POOL_OVERFLOW = 20
POOL_TIMEOUT_SECONDS = 10.0
CONNECT_TIMEOUT_SECONDS = 10.0
COMMAND_TIMEOUT_SECONDS = 30.0
_SCHEMES = ("postgres", "postgresql", "postgresql+asyncpg")
_PARAMETERS = frozenset({"host", "port", "ssl"})

_UNREACHABLE_STATES = ("08", "28", "3D", "53", "57")
"""Classes of SQLSTATE: connection, authorization, no such database, out of resources, shutting down."""


def normalise_url(url: str) -> URL:
    """`postgres://…`, `postgresql://…` or `postgresql+asyncpg://…` as SQLAlchemy wants it for asyncpg.

    Raises SetupError for anything that would not take effect. The message never contains the password.
    """
    hint = "DATABASE_URL looks like postgresql://user:password@host:5432/database"
    try:
        parsed = make_url(url)
    except (exc.ArgumentError, ValueError):
        raise SetupError("DATABASE_URL is not a URL.", hint=hint) from None
    if parsed.drivername not in _SCHEMES:
        raise SetupError(f"DATABASE_URL: {parsed.drivername}:// is not supported.", hint=hint)
    query = dict(parsed.query)
    if "sslmode" in query:
        query["ssl"] = query.pop("sslmode")
    for name in query.keys() - _PARAMETERS:
        raise SetupError(f"DATABASE_URL: the parameter {name} is not supported.", hint="Remove it.")
    return parsed.set(drivername="postgresql+asyncpg", query=query)


def libpq_parameters(url: str) -> dict[str, Any]:
    """The same database for libpq, which the queue library speaks. Raises SetupError as `normalise_url`."""
    parsed = normalise_url(url)
    query = dict(parsed.query)
    given = {
        "host": query.get("host") or parsed.host,
        "port": query.get("port") or parsed.port,
        "user": parsed.username,
        "password": parsed.password,
        "dbname": parsed.database,
        "sslmode": query.get("ssl"),
    }
    own = {"application_name": "marginalia", "connect_timeout": int(CONNECT_TIMEOUT_SECONDS)}
    return own | {name: value for name, value in given.items() if value is not None}


class Database:
    """A pool of connections. Opened lazily: making one does not touch the network."""

    def __init__(self, url: str, *, command_timeout: float | None = COMMAND_TIMEOUT_SECONDS) -> None:
        """command_timeout: seconds; None for no limit."""
        self.engine: AsyncEngine = create_async_engine(
            normalise_url(url),
            pool_size=POOL_SIZE,
            max_overflow=POOL_OVERFLOW,
            pool_timeout=POOL_TIMEOUT_SECONDS,
            json_serializer=_to_json,
            # They are what people wrote: no error message, and so no log, is to have them.
            hide_parameters=True,
            connect_args={
                "timeout": CONNECT_TIMEOUT_SECONDS,
                "command_timeout": command_timeout,
                "server_settings": {"application_name": "marginalia", "jit": "off"},
            },
        )
        event.listen(self.engine.sync_engine, "checkout", _refuse_closed)
        self._autocommit = self.engine.execution_options(isolation_level="AUTOCOMMIT")

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection whose statements are a transaction each: no BEGIN, no COMMIT."""
        with _wrapping():
            async with self._autocommit.connect() as connection:
                yield connection

    async def write(self, statement: Executable, parameters: dict[str, Any]) -> None:
        """Execute one statement, which is a transaction."""
        async with self.reading() as connection:
            await connection.execute(statement, parameters)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncConnection]:
        """Commits when the block ends, rolls back when it raises or is cancelled."""
        with _wrapping():
            async with self.engine.begin() as connection:
                yield connection

    async def close(self) -> None:
        await self.engine.dispose()


@contextmanager
def _wrapping() -> Iterator[None]:
    try:
        yield
    except (OSError, TimeoutError, exc.TimeoutError, exc.DBAPIError) as error:
        if isinstance(error, exc.DBAPIError) and not _means_unreachable(error):
            raise
        # Clients read this; who may connect where is in the cause, for the log.
        raise StoreUnavailable("The database cannot be reached.") from error


def _means_unreachable(error: exc.DBAPIError) -> bool:
    state = getattr(error.orig, "sqlstate", None) or ""
    return error.connection_invalidated or state.startswith(_UNREACHABLE_STATES)


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _refuse_closed(connection: Any, record: Any, proxy: Any) -> None:
    """After a restart of Postgres the pool holds closed connections; asyncpg knows without a round trip."""
    if connection.driver_connection.is_closed():
        raise exc.DisconnectionError("closed by the server")
