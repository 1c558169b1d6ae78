"""More conversations than the KV cache holds, taking turns: the prefill comes back, for every mode alike.

Each mode has texts of its own and the engine to itself, one mode after the other, in random order.
"""

import random

from bench import http, texts
from bench.modes import Options, Point
from bench.rounds import Rounds
from bench.scale import Scale

NAME = "memory"
KV_BLOCKS = 250
"""Of 128 tokens on the CPU: 32k tokens."""
TOKENS = 6_000
FITS, TOO_LARGE = 3, 8
VLLM_ARGS = ("--num-gpu-blocks-override", str(KV_BLOCKS), "--max-model-len", "16384")


def asks(scale: Scale) -> int:
    return (FITS + TOO_LARGE) * (1 + scale.memory_turns)


def run(rounds: Rounds, scale: Scale) -> None:
    options = Options(scale.answer_tokens)
    for case, count in (("fits", FITS), ("too large", TOO_LARGE)):
        names = list(rounds.started(NAME))
        random.Random(case).shuffle(names)
        for name in names:
            try:
                _one(rounds, case, name, count, scale.memory_turns, options)
            except http.Refused as exc:
                rounds.refused(NAME, name, f"{case}: {exc}")


def _one(rounds: Rounds, case: str, name: str, count: int, turns: int, options: Options) -> None:
    points = []
    for number in range(count):
        rounds.progress.say(f"{NAME}, {case}: {name} prepares conversation {number + 1} of {count}")
        past = texts.history(TOKENS, f"Memory {case} {name} {number}")
        points.append(rounds.modes[name].ask(Point(), past, options)[1])
        rounds.progress.step()
    for turn in range(turns):
        for number, point in enumerate(points):
            rounds.progress.say(f"{NAME}, {case}, turn {turn}: {name}")
            question = texts.question(turn)
            row, points[number] = rounds.one(
                NAME, case, name, turn * count + number, point, question, options
            )
            rounds.keep(row)
