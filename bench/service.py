"""`marginalia serve` as it is, and beside it `GET /bench/seen`: round trips to the database and their time.

python -m bench.service        (the environment is that of `marginalia serve`)
"""

import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from asyncpg.connection import LoggedQuery  # type: ignore[import-untyped]
from fastapi import FastAPI
from sqlalchemy import event
from sqlalchemy.engine import Engine

from app import cli
from app import main as main_module
from app.local import serve
from bench.tap import SEEN

_seen = {"statements": 0, "database_ms": 0.0}


def _log(query: LoggedQuery) -> None:
    _seen["statements"] += 1
    _seen["database_ms"] += query.elapsed * 1e3


def _on_connect(connection: Any, _: Any) -> None:
    # asyncpg's own log also has BEGIN and COMMIT, which SQLAlchemy's events lack.
    connection.driver_connection.add_query_logger(_log)


class Counters:
    """ASGI middleware that answers SEEN and passes on all else."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Callable[[Any], Awaitable[None]]) -> None:
        if scope.get("path") != SEEN:
            await self._app(scope, receive, send)
            return
        body = json.dumps(_seen).encode()
        _seen.update(statements=0, database_ms=0.0)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def main() -> int:
    """Serve until a signal."""
    event.listen(Engine, "connect", _on_connect)
    create_app = main_module.create_app

    def counted(**settings: Any) -> FastAPI:
        app = create_app(**settings)
        app.add_middleware(Counters)
        return app

    serve.create_app = counted  # type: ignore[attr-defined]
    return cli.main(["serve"])


if __name__ == "__main__":
    sys.exit(main())
