"""How many bytes the servers' stores hold: of values, without indexes and pages."""

import asyncio
import sqlite3
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]
from sqlalchemy import make_url


def postgres_bytes(database_url: str) -> int:
    """All rows of all tables of the schema `public`, as Postgres stores them (pg_column_size)."""

    async def ask() -> int:
        url = make_url(database_url)
        connection = await asyncpg.connect(
            host=url.query["host"], port=int(str(url.query["port"])), user=url.username, database=url.database
        )
        try:
            tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
            sums = [
                await connection.fetchval(f'SELECT coalesce(sum(pg_column_size(t.*)), 0) FROM "{name}" t')
                for (name,) in tables
            ]
        finally:
            await connection.close()
        return sum(map(int, sums))

    return asyncio.run(ask())


def sqlite_bytes(path: Path) -> int:
    """All values of all tables."""
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        total = 0
        for (table,) in tables:
            columns = [row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')]
            lengths = " + ".join(f'coalesce(length(CAST("{name}" AS BLOB)), 0)' for name in columns)
            total += connection.execute(f'SELECT coalesce(sum({lengths}), 0) FROM "{table}"').fetchone()[0]
    return int(total)
