"""`marginalia serve` as it is, and beside it `GET /bench/seen`: statements to the database and their time.

python -m bench.service        (the environment is that of `marginalia serve`)
"""

import sys
import time
from typing import Any

from fastapi import FastAPI
from sqlalchemy import event
from sqlalchemy.engine import Engine

from app import cli
from app import main as main_module
from app.local import serve
from bench.tap import SEEN, Receive, Scope, Send, answer

_seen = {"statements": 0, "database_ms": 0.0}


def _before(connection: Any, *_: Any) -> None:
    connection.info["began"] = time.perf_counter()


def _after(connection: Any, *_: Any) -> None:
    _seen["statements"] += 1
    _seen["database_ms"] += 1e3 * (time.perf_counter() - connection.info["began"])


class Counters:
    """ASGI middleware that answers SEEN and passes on all else."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("path") != SEEN:
            await self._app(scope, receive, send)
            return
        seen = dict(_seen)
        _seen.update(statements=0, database_ms=0.0)
        await answer(send, seen)


def main() -> int:
    """Serve until a signal."""
    event.listen(Engine, "before_cursor_execute", _before)
    event.listen(Engine, "after_cursor_execute", _after)
    create_app = main_module.create_app

    def counted(**settings: Any) -> FastAPI:
        app = create_app(**settings)
        app.add_middleware(Counters)
        return app

    serve.create_app = counted  # type: ignore[attr-defined]
    return cli.main(["serve"])


if __name__ == "__main__":
    sys.exit(main())
