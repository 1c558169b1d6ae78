"""A streamed HTTP request, timed by its lines: what every mode of the benchmark asks with."""

import http.client
import json
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

TIMEOUT_S = 600


class Refused(RuntimeError):
    """A server's answer that is none: what it said, shortened."""


@dataclass
class Streamed:
    """A whole answer. Times in seconds of CLOCK_MONOTONIC."""

    began: float
    """Just before the request was sent; its JSON was made before."""
    body_bytes: int
    events: list[tuple[float, dict[str, Any]]] = field(default_factory=list)
    """Each event's arrival and content."""
    ended: float = 0.0


def stream(url: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Streamed:
    """POST `body` and read server-sent events until the end. Raises Refused for any other answer."""
    encoded = json.dumps(body).encode()
    with closing(_connection(url)) as connection:
        began = time.monotonic()
        answer = _sent(connection, url, encoded, headers)
        lines = [(time.monotonic(), line) for line in answer if line.startswith(b"data: {")]
        ended = time.monotonic()
    # Parsed only now: while the answer came, the client was to be out of the way.
    events = [(at, json.loads(line[6:])) for at, line in lines]
    return Streamed(began, len(encoded), events, ended)


def ask(url: str, body: dict[str, Any] | None = None, headers: dict[str, str] | None = None) -> Any:
    """JSON for JSON; a GET without a body. Raises Refused."""
    encoded = None if body is None else json.dumps(body).encode()
    with closing(_connection(url)) as connection:
        return json.loads(_sent(connection, url, encoded, headers).read())


def _connection(url: str) -> http.client.HTTPConnection:
    # One for each request: a server closes an idle one while others are asked.
    parts = urlsplit(url)
    return http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=TIMEOUT_S)


def _sent(
    connection: http.client.HTTPConnection, url: str, encoded: bytes | None, headers: dict[str, str] | None
) -> http.client.HTTPResponse:
    method = "GET" if encoded is None else "POST"
    path = urlsplit(url).path
    try:
        connection.request(method, path, encoded, {"content-type": "application/json", **(headers or {})})
        answer = connection.getresponse()
    except OSError as exc:
        raise Refused(f"{path}: {type(exc).__name__}: {exc}") from exc
    if answer.status != http.HTTPStatus.OK:
        raise Refused(f"{path}: {answer.status} {answer.read().decode(errors='replace')[:500]}")
    return answer
