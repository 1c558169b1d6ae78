"""Keeps the local vLLM and the embedded Postgres running: starts again what dies, but not for ever."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from app.errors import SetupError

MAX_RESTARTS = 3
WINDOW_S = 600.0
POLL_S = 0.5


class Restartable(Protocol):
    """What the keeper needs of a server."""

    @property
    def name(self) -> str: ...

    def alive(self) -> bool: ...

    def restart(self, give_up: threading.Event) -> float:
        """Start it again and wait for its answer, or until `give_up` is set; returns the seconds it took."""


class Keeper:
    """Watches `server` from a thread of its own, as a context; nobody else may use `server` inside it."""

    def __init__(
        self,
        server: Restartable,
        say: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.monotonic,
        poll_s: float = POLL_S,
    ) -> None:
        self._server, self._say, self._clock, self._poll_s = server, say, clock, poll_s
        self._restarts: deque[float] = deque()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="keeper", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        """Stop watching; a restart under way is left where it is."""
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._poll_s):
            if not self._server.alive() and not self._restart():
                return

    def _restart(self) -> bool:
        now = self._clock()
        while self._restarts and now - self._restarts[0] > WINDOW_S:
            self._restarts.popleft()
        if len(self._restarts) >= MAX_RESTARTS:
            self._say(
                f"{self._server.name} ended {MAX_RESTARTS + 1} times within {WINDOW_S / 60:.0f} minutes and "
                "stays down: turns are refused. See why in its log, then start again."
            )
            return False
        self._restarts.append(now)
        self._say(f"{self._server.name} ended; starting it again ({len(self._restarts)} of {MAX_RESTARTS}) …")
        try:
            took = self._server.restart(self._stop)
        except SetupError as exc:
            self._say(exc.message)
            return True
        if not self._stop.is_set():
            self._say(f"{self._server.name} answers again after {took:.0f} s.")
        return True
