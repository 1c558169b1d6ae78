"""The service's port: reserved before the slow stages, answered by uvicorn in a thread of its own."""

import contextlib
import socket
import threading
import time
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from app.api.body import MAX_BODY_BYTES
from app.errors import SetupError

BACKLOG = 2048
STOP_PATIENCE_S = 5
POLL_S = 0.05
ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}

SERVING: dict[str, Any] = {
    # Longer than clients keep an idle connection (the OpenAI SDK: 5 s), so that it is they who close it: a
    # request that is on its way as a server closes is lost.
    "timeout_keep_alive": 75,
    "ws": "websockets-sansio",
    # Of what is longer than a message may be, this much is read, for it to be refused in words.
    "ws_max_size": 2 * MAX_BODY_BYTES,
    # Events are small, as they are on a stream of server-sent events, which is not compressed either.
    "ws_per_message_deflate": False,
    # For proxies, which close connections that are silent. Who does not answer may be a slow reader: its
    # answer would come after all that waits for it. Who is gone, TCP finds out.
    "ws_ping_interval": 20.0,
    "ws_ping_timeout": None,
}
"""Settings of uvicorn for connections."""


def reserve(host: str, port: int) -> socket.socket:
    """Bind, but do not answer yet: clients are refused until the service is there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as exc:
        sock.close()
        raise SetupError(
            f"PORT: {host}:{port} cannot be used: {exc.strerror}",
            hint=f"Stop what listens there, or take another port: make run PORT={port + 1}",
        ) from exc
    return sock


def url_of(sock: socket.socket) -> str:
    """Base URL by which this machine reaches a server on `sock`."""
    host, port = sock.getsockname()[:2]
    host = ANYWHERE.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Listener:
    """Serves `app` on a reserved socket. Signals stay with the main thread, which may wait in `join`."""

    def __init__(self, app: FastAPI, sock: socket.socket) -> None:
        config = uvicorn.Config(
            app,
            log_level="warning",
            backlog=BACKLOG,
            timeout_graceful_shutdown=STOP_PATIENCE_S,
            **SERVING,
        )
        self.url = url_of(sock)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._run, args=(sock,), name="http")
        # A thread whose `join` a signal interrupts passes for ended, in Python 3.11.
        self._ended = threading.Event()

    def _run(self, sock: socket.socket) -> None:
        # That is how uvicorn ends when the app does not start, after it logged why.
        try:
            with contextlib.suppress(SystemExit):
                self._server.run([sock])
        finally:
            self._ended.set()

    def start(self) -> None:
        self._thread.start()

    def wait_ready(self, patience_s: float) -> str | None:
        """Wait until /ready says yes. None for that; else, once the patience is over, what it answered.

        Raises SetupError where the service ended.
        """
        until = time.monotonic() + patience_s
        answer = "no answer"
        while time.monotonic() < until:
            if not self._thread.is_alive():
                raise SetupError("The service did not start", hint="The error above says why.")
            try:
                got = httpx.get(f"{self.url}/ready", timeout=5.0, trust_env=False)
            except httpx.HTTPError:
                pass
            else:
                if got.is_success:
                    return None
                answer = f"{got.status_code} {got.text[:300]}"
            time.sleep(POLL_S)
        return answer

    def join(self) -> None:
        """Wait until the service ends by itself."""
        self._ended.wait()

    def stop(self) -> None:
        """Refuse new requests, give running ones a few seconds, return when the service has ended."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._ended.wait()
