"""Conversations at once, each asking again as soon as it is answered. One mode after the other, in an order
drawn anew for each round.

The histories are the same in all modes, so all find the same KV cache; no question is asked twice, so that
none finds another's. locust asks, in a process of its own (bench.users), in which all begin their measured
turns at the same moment. The rate is that of all turns, from the first request to the last answer: at the end
some have already left.
"""

import itertools
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from bench import http, texts
from bench.modes import Options, Point
from bench.records import Row
from bench.rounds import Rounds
from bench.scale import Scale
from bench.stack import ROOT, Stack

NAME = "crowd"


def asks(scale: Scale) -> int:
    return max(scale.crowds) + scale.crowd_runs * sum(scale.crowds) * (1 + scale.crowd_turns)


def run(rounds: Rounds, scale: Scale) -> None:
    options = Options(scale.answer_tokens)
    names = list(rounds.started(NAME))
    most = max(scale.crowds)
    talks: dict[str, list[Point]] = {name: [] for name in names}
    for name in names:
        for number in range(most):
            rounds.progress.say(f"{NAME}: {name} prepares conversation {number + 1} of {most}")
            past = texts.history(scale.crowd_tokens, f"Crowd {number}")
            try:
                talks[name].append(rounds.modes[name].ask(Point(), past, options)[1])
                rounds.progress.step()
            except http.Refused as exc:
                rounds.refused(NAME, name, str(exc))
                break
    chance = random.Random(NAME)
    able = [name for name in names if len(talks[name]) == most]
    questions = itertools.count(10_000, scale.crowd_turns + 1)
    for number, count in itertools.product(range(scale.crowd_runs), scale.crowds):
        chance.shuffle(able)
        for name in able:
            rounds.progress.say(f"{NAME} of {count}, round {number}: {name}")
            job = {"mode": name, "turns": scale.crowd_turns, "options": asdict(options)}
            try:
                _one(rounds, number, talks[name][:count], job | {"question": next(questions)})
            except http.Refused as exc:
                rounds.refused(NAME, name, f"{count}: {exc}")


def _one(rounds: Rounds, number: int, points: list[Point], job: dict[str, Any]) -> None:
    """All of `points` at once, each for some turns after one that only warms up."""
    case, name = str(len(points)), job["mode"]
    job["stack"] = _of_stack(rounds.stack)
    told = []
    for said in _told(job | {"points": [asdict(point) for point in points]}):
        told.append(said)
        if "turn" in said:
            rounds.progress.step()
    made = [said for said in told if said.get("turn")]
    for said in made:
        began, first, ended = said["began"], said["first"], said["ended"]
        timed = {"ttft_ms": 1e3 * (first - began), "latency_ms": 1e3 * (ended - began)}
        rounds.keep(Row(NAME, case, name, number, said["path"], said["reason"], measures=timed))
    seconds = max(said["ended"] for said in made) - min(said["began"] for said in made)
    rate = {"turns_per_s": len(made) / seconds, "client_cpu_ms": 1e3 * told[-1]["cpu_s"] / len(made)}
    rounds.keep(Row(NAME, case, name, number, measures=rate))


def _of_stack(stack: Stack) -> dict[str, Any]:
    urls = {"vllm": stack.vllm.url, "marginalia": stack.marginalia.url}
    urls |= {"agentic": stack.agentic.url} if stack.agentic else {}
    return {"urls": urls, "salt": stack.salt, "why_not": stack.why_not}


def _told(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What bench.users says of `job`, as it says it. Raises http.Refused where a turn broke or it died."""
    with tempfile.TemporaryFile("w+") as asked, tempfile.TemporaryFile("w+") as log:
        json.dump(job, asked)
        asked.seek(0)
        command = [sys.executable, "-m", "bench.users"]
        said: dict[str, Any] = {}
        with subprocess.Popen(
            command, stdin=asked, stdout=subprocess.PIPE, stderr=log, cwd=ROOT, text=True
        ) as users:
            try:
                for line in users.stdout or ():
                    said = json.loads(line)
                    if "broke" in said:
                        raise http.Refused(said["broke"])
                    yield said
            finally:
                users.kill()
        if "cpu_s" not in said:
            log.seek(0)
            raise http.Refused(f"the load generator died: {log.read()[-300:]}")
