"""The crowd's users, in their own process, against a server that speaks chat completions."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import psutil
import pytest

from bench.records import NotRun, Run
from bench.rounds import Rounds
from bench.scale import QUICK
from bench.scenarios import crowd
from bench.stack import Server, Stack

USERS, TURNS = 3, 2
SCALE = replace(QUICK, crowds=(USERS,), crowd_turns=TURNS, crowd_tokens=100, crowd_runs=1)
ANSWER = b"".join(
    f"data: {json.dumps({'choices': [{'delta': {'content': text}}]})}\n\n".encode() for text in ("So ", "it.")
)


class Chat(ThreadingHTTPServer):
    """Answers questions by threes only: each waits until two others wait beside it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.together = threading.Barrier(USERS, timeout=60)
        self.questions: list[str] = []
        self.on_question: Any = None
        """Called with each question's number; what it returns is a refusal."""


class Answer(BaseHTTPRequestHandler):
    server: Chat

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        said = body["messages"][-1]["content"]
        refusal = self._question(said) if said.startswith("Question") else None
        self.send_response(400 if refusal else 200)
        self.end_headers()
        self.wfile.write(refusal.encode() if refusal else ANSWER + b"data: [DONE]\n\n")

    def _question(self, said: str) -> str | None:
        self.server.questions.append(said)
        if self.server.on_question:
            refusal: str | None = self.server.on_question(len(self.server.questions))
            return refusal
        self.server.together.wait()
        return None

    def log_message(self, *_: Any) -> None:
        pass


class Steps:
    """Counts the progress."""

    def __init__(self) -> None:
        self.count = 0

    def say(self, text: str) -> None:
        pass

    def step(self) -> None:
        self.count += 1


@pytest.fixture
def server() -> Iterator[Chat]:
    with Chat() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def measured(server: Chat) -> tuple[Run, Steps]:
    url = f"http://127.0.0.1:{server.server_port}"
    vllm = cast(Any, SimpleNamespace(url=url))
    stack = Stack(vllm, "", Server(url, os.getpid()), "secret", None, Path(), "not here")
    run, steps = Run({}, {}), Steps()
    crowd.run(Rounds(stack, run, ["chat", "agentic-api"], steps, lambda: None), SCALE)
    assert run.not_run.pop(0) == NotRun("crowd", "agentic-api", "not here")
    return run, steps


def test_all_users_ask_at_once_for_all_of_their_turns(server: Chat) -> None:
    """One user that waits for another's answer, and the server would never give one."""
    run, steps = measured(server)
    assert run.not_run == []
    assert len(server.questions) == USERS * (1 + TURNS)
    *turns, rate = run.rows
    assert len(turns) == USERS * TURNS
    assert all(0 < row.measures["ttft_ms"] <= row.measures["latency_ms"] for row in turns)
    assert rate.measures.keys() == {"turns_per_s", "client_cpu_ms"}
    assert all(value > 0 for value in rate.measures.values())
    assert {(row.scenario, row.case, row.mode) for row in run.rows} == {("crowd", "3", "chat")}
    assert steps.count == crowd.asks(SCALE)


@pytest.mark.parametrize("when", [1, USERS + 1], ids=["warming up", "measured"])
def test_what_a_server_refuses_is_said_in_its_words(server: Chat, when: int) -> None:
    server.on_question = lambda number: "no room left" if number >= when else None
    run, _ = measured(server)
    assert run.not_run == [NotRun("crowd", "chat", "3: /v1/chat/completions: 400 no room left")]
    assert run.rows == []


def test_nobody_s_turns_begin_before_all_have_warmed_up(server: Chat) -> None:
    asked_meanwhile = []
    alone = threading.Lock()

    def late(_: int) -> None:
        if alone.acquire(blocking=False):
            while len(server.questions) < USERS:
                time.sleep(0.01)
            time.sleep(1)  # what comes too early comes now
            asked_meanwhile.extend(server.questions)

    server.on_question = late
    run, _ = measured(server)
    assert len(run.rows) == USERS * TURNS + 1
    assert len(asked_meanwhile) == USERS and len(set(asked_meanwhile)) == 1


def test_a_load_generator_that_dies_ends_the_scenario(server: Chat) -> None:
    def kill(_: int) -> None:
        for child in psutil.Process().children():
            if "bench.users" in child.cmdline():
                child.kill()

    server.on_question = kill
    run, _ = measured(server)
    (entry,) = run.not_run
    assert entry.why.startswith("3: the load generator died")
    assert run.rows == []


def test_nothing_of_it_reaches_the_benchmark_s_own_process() -> None:
    """gevent would replace the sockets and threads that all other scenarios measure with."""
    program = "import sys, bench.engines; print([n for n in ('gevent', 'locust') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
