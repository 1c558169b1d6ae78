"""Conversations at once: a process of its own, in which each is a locust user. For bench.scenarios.crowd.

    python -m bench.users < job      (JSON; tells what happens as JSON lines)

Importing locust makes gevent replace the standard library's sockets, threads and locks, so that what a mode
asks with http.client gives way to the other users while it waits. That is for this process alone: nothing
else imports this file.

Each user asks once to warm up and then waits for the others at a barrier, which opens when the last one is
there: the measured turns begin with all users at the same moment, and no warm-up turn is among them. From
there each asks again as soon as it is answered, until it has had its turns and leaves.
"""

# isort: off
from locust import User, constant, task
from locust.env import Environment
from locust.exception import StopUser
# isort: on

import itertools
import json
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any, cast

from bench import http, texts
from bench.modes import ALL, Mode, Options, Point
from bench.stack import Stack


class Crowd:
    """What all users have in common."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.mode: Mode = ALL[job["mode"]](_stack(job["stack"]))
        self.points = [Point(tuple(point["items"]), point["response_id"]) for point in job["points"]]
        self.options = Options(**job["options"])
        self.turns: int = job["turns"]
        self.question: int = job["question"]
        self.numbers = itertools.count()
        self.start = threading.Barrier(len(self.points), action=self._started)
        self.cpu_s = 0.0

    def _started(self) -> None:
        self.cpu_s = time.process_time()


class Conversation(User):
    """One user. Every turn is asked from the same point on: the history's length stays what it is."""

    crowd: Crowd
    wait_time = constant(0)

    def on_start(self) -> None:
        self.number = next(self.crowd.numbers)
        self.turns = iter(range(1, self.crowd.turns + 1))
        self._ask(0)
        self.crowd.start.wait()

    @task
    def turn(self) -> None:
        turn = next(self.turns, None)
        if turn is None:
            raise StopUser
        self._ask(turn)

    def _ask(self, turn: int) -> None:
        crowd = self.crowd
        answer = crowd.mode.answer(
            crowd.points[self.number], texts.question(crowd.question + turn), crowd.options
        )
        times = {"began": answer.streamed.began, "first": answer.first, "ended": answer.streamed.ended}
        said = {"path": answer.caching.get("path"), "reason": answer.caching.get("reason")}
        _tell({"conversation": self.number, "turn": turn, **times, **said})


def main() -> None:
    """Tells of each turn (0 is the one that warms up), and at the end of the CPU seconds since the barrier.
    What breaks one turn ends it all, and is told instead."""
    Conversation.crowd = crowd = Crowd(json.load(sys.stdin))
    environment = Environment(user_classes=[Conversation])
    runner = environment.create_local_runner()
    why: list[Exception] = []

    def broke(exception: Exception, **_: Any) -> None:
        why.append(exception)
        runner.quit()

    environment.events.user_error.add_listener(broke)  # type: ignore[no-untyped-call]
    count = len(crowd.points)
    runner.start(count, spawn_rate=count)  # all of them in the first step
    runner.spawning_greenlet.join()  # type: ignore[union-attr]
    runner.user_greenlets.join()
    if why:
        _tell({"broke": str(why[0]) if isinstance(why[0], http.Refused) else repr(why[0])})
    else:
        _tell({"cpu_s": time.process_time() - crowd.cpu_s})
    runner.quit()


def _stack(said: dict[str, Any]) -> Stack:
    """What modes need of a stack: no more came over."""
    servers = {name: SimpleNamespace(url=url) for name, url in said["urls"].items()}
    return cast(
        Stack, SimpleNamespace(**{"agentic": None, **servers}, salt=said["salt"], why_not=said["why_not"])
    )


def _tell(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    main()
