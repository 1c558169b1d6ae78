"""vLLM is killed and started again in mid-conversation: what the next turns of each mode take.

Each mode has a text of its own: nothing that one recovers helps another. The KV cache is empty for all.
"""

import random
import time

from bench import http, texts
from bench.modes import Options
from bench.rounds import Rounds
from bench.scale import Scale

NAME = "restart"


def asks(scale: Scale) -> int:
    return 5


def run(rounds: Rounds, scale: Scale) -> None:
    options = Options(scale.answer_tokens)
    points = rounds.started(NAME)
    names = list(points)
    for name in names:
        past = texts.history(scale.crowd_tokens, f"Restart {name}")
        for case, new in (("", past), ("", texts.question(0)), ("before", texts.question(1))):
            try:
                row, points[name] = rounds.one(NAME, case, name, 0, points[name], new, options)
            except http.Refused as exc:
                rounds.refused(NAME, name, str(exc))
                del points[name]
                break
            rounds.keep(row, counted=bool(case))
    rounds.progress.say(f"{NAME}: vLLM is killed and starts again")
    vllm = rounds.stack.vllm
    vllm.kill()
    vllm.stop()
    vllm.start()
    vllm.wait_ready(lambda status: rounds.progress.say(f"{NAME}: vLLM: {status}"))
    _first_of_all(rounds, options)
    names = list(points)
    random.Random(NAME).shuffle(names)
    for name in names:
        for number, case in enumerate(("first turn after", "second turn after")):
            began = time.monotonic()
            question = texts.question(2 + number)
            try:
                row, points[name] = rounds.one(NAME, case, name, 0, points[name], question, options)
            except http.Refused as exc:
                rounds.refused(NAME, name, f"{case}: {exc}")
                break
            row.measures["recovery_s"] = time.monotonic() - began
            rounds.keep(row)


def _first_of_all(rounds: Rounds, options: Options) -> None:
    """A stranger's turn: what a process does once, at its first request, is nobody's recovery."""
    for name, point in rounds.started(NAME).items():
        try:
            rounds.modes[name].ask(point, texts.question(0), options)
        except http.Refused as exc:
            rounds.refused(NAME, name, str(exc))
