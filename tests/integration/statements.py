"""The statements that reach Postgres."""

from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event, text

from app.store.database import Database


@contextmanager
def statements(database: Database) -> Iterator[list[str]]:
    """The first words of the statements sent while the block runs, with COMMIT but without BEGIN."""
    seen: list[str] = []
    engine = database.engine.sync_engine
    listeners: dict[str, Any] = {
        "before_cursor_execute": lambda _c, _cur, statement, *_: seen.append(statement.split()[0]),
        "commit": lambda _: seen.append("COMMIT"),
    }
    for name, listener in listeners.items():
        event.listen(engine, name, listener)
    yield seen
    for name, listener in listeners.items():
        event.remove(engine, name, listener)


async def plans(database: Database, work: Awaitable[Any], *, options: str = "") -> list[str]:
    """How Postgres executes each statement that `work` sends, by fresh statistics."""
    sent: list[tuple[str, Any]] = []
    engine = database.engine.sync_engine

    def remember(_c: Any, _cur: Any, statement: str, parameters: Any, *_: Any) -> None:
        sent.append((statement, parameters))

    async with database.reading() as connection:
        await connection.execute(text("ANALYZE"))
    event.listen(engine, "before_cursor_execute", remember)
    await work
    event.remove(engine, "before_cursor_execute", remember)
    async with database.reading() as connection:
        explained = [
            await connection.exec_driver_sql(f"EXPLAIN {options} {statement}", parameters)
            for statement, parameters in sent
        ]
        return ["\n".join(plan.scalars().all()) for plan in explained]
