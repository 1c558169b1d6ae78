"""A server that dies is started again, but not for ever."""

import threading
import time

from app.errors import SetupError
from app.local.keeper import MAX_RESTARTS, WINDOW_S, Keeper


class Server:
    """Dies when told to, and at once after each start while `hopeless`."""

    name = "vLLM"

    def __init__(self) -> None:
        self.up, self.hopeless, self.starts = True, False, 0

    def alive(self) -> bool:
        return self.up

    def restart(self, give_up: threading.Event) -> float:
        self.starts += 1
        self.up = True
        if self.hopeless:
            self.up = False
            raise SetupError("vLLM ended: no luck", hint="none")
        return 7.0


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def eventually(true: object) -> None:
    until = time.monotonic() + 120
    while not true() and time.monotonic() < until:  # type: ignore[operator]
        time.sleep(0.005)
    assert true()  # type: ignore[operator]


def test_a_server_that_runs_is_left_alone() -> None:
    server, said = Server(), []
    with Keeper(server, said.append, poll_s=0.001):
        time.sleep(0.05)
    assert (server.starts, said) == (0, [])


def test_a_dead_server_is_started_again() -> None:
    server, said = Server(), []
    with Keeper(server, said.append, poll_s=0.001):
        server.up = False
        eventually(lambda: len(said) == 2)
    assert said == ["vLLM ended; starting it again (1 of 3) …", "vLLM answers again after 7 s."]


def test_a_hopeless_server_is_given_up_with_its_reason() -> None:
    server, said = Server(), []
    server.hopeless, server.up = True, False
    with Keeper(server, said.append, poll_s=0.001, clock=Clock()):
        eventually(lambda: "stays down" in "".join(said))
    assert server.starts == MAX_RESTARTS
    assert said.count("vLLM ended: no luck") == MAX_RESTARTS


def test_restarts_long_ago_do_not_count() -> None:
    server, said, clock = Server(), [], Clock()
    with Keeper(server, said.append, poll_s=0.001, clock=clock):
        for n in range(1, MAX_RESTARTS + 3):
            server.up = False
            eventually(lambda n=n: len(said) == 2 * n)
            clock.now += WINDOW_S / MAX_RESTARTS + 1
    assert server.starts == MAX_RESTARTS + 2
