"""The three scenarios of kvcached's prefix caching benchmark (its pull request 252), with modes in place of
servers: a prefix of 500 tokens, one of 2,000 and more made of examples, and more prefixes than a tiny store
holds.

There, one prefix is sent with many questions; here the prefix is a conversation's first turn, and every
question branches off it. Each mode has a text of its own, so that the first turn is cold for all.
"""

import random
from dataclasses import dataclass

from bench import http, items, texts
from bench.items import Item
from bench.modes import Options, Point
from bench.rounds import Rounds
from bench.scale import Scale

EXAMPLES = 42
TINY_STORE_PREFIXES = 90
TINY_STORE_TOKENS = 1_500
RECENT = 8
"""As many of the newest, then of the oldest prefixes are asked once more."""


def _prefix(title: str, tokens: int, examples: int) -> list[Item]:
    chance = random.Random(title)
    parts = [texts.words(chance, tokens // examples) for _ in range(examples)]
    told = "\n".join(f"Example {n}: {part}" for n, part in enumerate(parts, 1))
    return [items.user(f"{title}. {told}\nIs that understood?")]


@dataclass(frozen=True)
class OnePrefix:
    """One prefix, many questions."""

    NAME: str
    tokens: int
    examples: int

    def asks(self, scale: Scale) -> int:
        return 1 + scale.rounds

    def run(self, rounds: Rounds, scale: Scale) -> None:
        options = Options(scale.answer_tokens)
        points = rounds.started(self.NAME)
        chance = random.Random(self.NAME)
        for number in range(-1, scale.rounds):
            for name in chance.sample(list(points), len(points)):
                new = texts.question(number)
                if number < 0:
                    new = _prefix(f"{self.NAME} {name}", self.tokens, self.examples)
                case = "first" if number < 0 else "cached"
                try:
                    row, after = rounds.one(self.NAME, case, name, max(0, number), points[name], new, options)
                except http.Refused as exc:
                    rounds.refused(self.NAME, name, str(exc))
                    del points[name]
                    continue
                rounds.keep(row)
                if number < 0:
                    points[name] = after


@dataclass(frozen=True)
class TinyStore:
    """More prefixes than Marginalia's prefix store and vLLM's KV cache hold: the newest are there, the oldest
    were evicted. For an engine with PREFIX_STORE_MB=1 and few KV blocks."""

    NAME: str = "kvcached-lru"

    def asks(self, scale: Scale) -> int:
        return TINY_STORE_PREFIXES + 2 * RECENT

    def run(self, rounds: Rounds, scale: Scale) -> None:
        for name in rounds.started(self.NAME):
            try:
                self._one(rounds, name, Options(scale.answer_tokens))
            except http.Refused as exc:
                rounds.refused(self.NAME, name, str(exc))

    def _one(self, rounds: Rounds, name: str, options: Options) -> None:
        points = []
        for number in range(TINY_STORE_PREFIXES):
            rounds.progress.say(f"{self.NAME}: {name}, prefix {number + 1} of {TINY_STORE_PREFIXES}")
            prefix = _prefix(f"{self.NAME} {name} {number}", TINY_STORE_TOKENS, 1)
            points.append(rounds.modes[name].ask(Point(), prefix, options)[1])
            rounds.progress.step()
        for case, asked in (("recent", points[-RECENT:]), ("evicted", points[:RECENT])):
            for number, point in enumerate(asked):
                row, _ = rounds.one(self.NAME, case, name, number, point, texts.question(number), options)
                rounds.keep(row)


basic = OnePrefix("kvcached-basic", 500, 1)
long = OnePrefix("kvcached-long", 2_400, EXAMPLES)
lru = TinyStore()
