"""Many short chats that begin with the same long system prompt."""

import random

from bench import items, texts
from bench.modes import Options
from bench.rounds import Rounds
from bench.scale import Scale

NAME = "shared"


def asks(scale: Scale) -> int:
    return 2 * (1 + scale.chats)


def run(rounds: Rounds, scale: Scale) -> None:
    options = Options(scale.answer_tokens)
    text = texts.words(random.Random(NAME), scale.system_tokens)
    system = {"type": "message", "role": "system", "content": text}
    for number in range(-1, scale.chats):
        counted = number >= 0
        points = rounds.started(NAME)
        first = [system, items.user(f"Chat {number} begins: what is this about?")]
        points = rounds.turn(NAME, "first turn", number, points, first, options, counted=counted)
        rounds.turn(NAME, "second turn", number, points, texts.question(number), options, counted=counted)
