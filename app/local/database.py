"""The database that a command works on: DATABASE_URL, or else the embedded Postgres."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import TypeVar

from app.errors import SetupError, StoreUnavailable
from app.local.keeper import Keeper
from app.local.postgres import EmbeddedPostgres
from app.settings import Settings
from app.store.database import Database

T = TypeVar("T")


@contextmanager
def database_url(settings: Settings, *, say: Callable[[str], None] | None = None) -> Iterator[str]:
    """Yield the URL; the embedded server is started, or joined where it runs, and left again.

    With `say`, the embedded server is started again when it dies, and `say` is told.
    """
    if settings.database_url:
        yield settings.database_url
        return
    embedded = EmbeddedPostgres(settings.data_dir)
    try:
        url = embedded.start()
        with Keeper(embedded, say) if say else nullcontext():
            yield url
    finally:
        embedded.stop()


def on_database(url: str, action: Callable[[Database], Awaitable[T]]) -> T:
    """Do one thing on a database from code that is not async. SetupError where it cannot be reached."""

    async def run() -> T:
        database = Database(url)
        try:
            return await action(database)
        finally:
            await database.close()

    try:
        return asyncio.run(run())
    except StoreUnavailable as exc:
        cause = exc.__cause__ or exc.__context__
        raise SetupError(
            f"The database cannot be reached: {cause or exc.message}",
            hint="Start it, correct DATABASE_URL, or unset it to use the embedded Postgres.",
        ) from exc
