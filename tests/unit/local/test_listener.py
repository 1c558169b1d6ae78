"""The service's port: reserved early, answered late."""

import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from openai import DEFAULT_CONNECTION_LIMITS

from app.errors import SetupError
from app.local.listener import SERVING, Listener, reserve, url_of


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    reserved = reserve("127.0.0.1", 0)
    yield reserved
    reserved.close()


def app_that_is(status: int) -> FastAPI:
    app = FastAPI()

    @app.get("/ready")
    def ready() -> JSONResponse:
        return JSONResponse({"postgres": "asleep"}, status)

    return app


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(SetupError, match=f"PORT: 127.0.0.1:{port} cannot be used") as caught:
            reserve("127.0.0.1", port)
    assert f"PORT={port + 1}" in caught.value.hint


def test_a_reserved_port_refuses_until_it_is_served(sock: socket.socket) -> None:
    with pytest.raises(httpx.ConnectError):
        httpx.get(url_of(sock), trust_env=False)
    listener = Listener(app_that_is(200), sock)
    listener.start()
    try:
        assert listener.wait_ready(20) is None
    finally:
        listener.stop()
    with pytest.raises(httpx.ConnectError):
        httpx.get(listener.url, trust_env=False)


def test_what_is_not_ready_is_told_after_the_patience(sock: socket.socket) -> None:
    listener = Listener(app_that_is(503), sock)
    listener.start()
    try:
        answer = None
        while answer is None:
            with suppress(httpx.HTTPError):
                answer = httpx.get(listener.url, timeout=60, trust_env=False)
        assert listener.wait_ready(1.0) == '503 {"postgres":"asleep"}'
    finally:
        listener.stop()


def test_idle_connections_are_left_to_clients_to_close() -> None:
    kept_s = DEFAULT_CONNECTION_LIMITS.keepalive_expiry
    assert kept_s is not None
    assert SERVING["timeout_keep_alive"] > 2 * kept_s


def test_a_service_that_dies_at_its_start_is_noticed_at_once(sock: socket.socket) -> None:
    @asynccontextmanager
    async def broken(_: FastAPI) -> AsyncIterator[None]:
        raise RuntimeError("no database")
        yield

    listener = Listener(FastAPI(lifespan=broken), sock)
    listener.start()
    with pytest.raises(SetupError, match="did not start"):
        listener.wait_ready(250)


@pytest.mark.parametrize(
    ("host", "url"), [("0.0.0.0", "http://127.0.0.1:"), ("127.0.0.1", "http://127.0.0.1:")]
)
def test_the_url_is_one_that_this_machine_can_use(host: str, url: str) -> None:
    with reserve(host, 0) as reserved:
        assert url_of(reserved) == f"{url}{reserved.getsockname()[1]}"
