"""What a turn costs at turn 10, 100, 1000 of a conversation: bytes kept, round trips, time in the service."""

import random

from bench import http, items, stored, texts
from bench.items import Item
from bench.modes import Agentic, Marginalia, Options, Point
from bench.records import Row
from bench.rounds import Rounds
from bench.scale import Scale

NAME = "store"
MODES = (Agentic.name, Marginalia.name)
ANSWER_TOKENS = 4
QUESTION_TOKENS = 85
"""With answer and template about 110 a turn: a thousand turns fit into the longest prompt."""


def asks(scale: Scale) -> int:
    return scale.depths[-1] + len(scale.depths) * (1 + scale.depth_rounds)


def run(rounds: Rounds, scale: Scale) -> None:
    options = Options(ANSWER_TOKENS)
    before: dict[tuple[str, int], Point] = {}
    for name, point in rounds.started(NAME, MODES).items():
        for depth in range(1, scale.depths[-1] + 1):
            rounds.progress.say(f"{NAME}: {name}, turn {depth} of {scale.depths[-1]}")
            size = 0
            if depth in scale.depths:
                before[name, depth] = point
                size = _bytes(rounds, name)
            try:
                _, point = rounds.modes[name].ask(point, _question(depth), options)
                rounds.progress.step()
            except http.Refused as exc:
                rounds.refused(NAME, name, f"turn {depth}: {exc}")
                break
            if depth in scale.depths:
                grown = {"stored_bytes": float(_bytes(rounds, name) - size)}
                rounds.keep(Row(NAME, str(depth), name, -1, measures=grown))
    _timed(rounds, before, scale.depth_rounds, options)


def _timed(rounds: Rounds, before: dict[tuple[str, int], Point], count: int, options: Options) -> None:
    """The turn at each depth again and again, depths and modes mixed: one conversation's end is minutes
    after its beginning, and a shared machine is never the same twice."""
    chance = random.Random(NAME)
    cases = list(before)
    for number in range(-1, count):
        chance.shuffle(cases)
        for name, depth in cases:
            rounds.progress.say(f"{NAME}, round {number}: {name}, turn {depth}")
            question = _question(10_000 + number)
            try:
                row, _ = rounds.one(NAME, str(depth), name, number, before[name, depth], question, options)
            except http.Refused as exc:
                rounds.refused(NAME, name, f"turn {depth}: {exc}")
                return
            rounds.keep(row, counted=number >= 0)


def _question(number: int) -> list[Item]:
    return [items.user(f"{number}. {texts.words(random.Random(number), QUESTION_TOKENS)}")]


def _bytes(rounds: Rounds, name: str) -> int:
    if name == Agentic.name:
        return stored.sqlite_bytes(rounds.stack.agentic_store)
    return stored.postgres_bytes(rounds.stack.database_url)
