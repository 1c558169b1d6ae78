"""Bytes of values, whatever the schema."""

import sqlite3
from pathlib import Path

from bench.stored import sqlite_bytes


def test_values_of_all_tables_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "some.db"
    with sqlite3.connect(path) as made:
        made.execute("CREATE TABLE a (id TEXT, body BLOB)")
        made.execute('CREATE TABLE "b c" (text TEXT)')
        made.execute("INSERT INTO a VALUES ('abc', x'0001'), ('d', NULL)")
        made.execute("INSERT INTO \"b c\" VALUES ('ü')")
    assert sqlite_bytes(path) == 3 + 2 + 1 + 2
