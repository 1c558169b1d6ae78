"""One history, continued in several ways: other questions from the same turn, and the same one once more."""

from bench import texts
from bench.modes import Options
from bench.rounds import Rounds
from bench.scale import Scale

NAME = "branch"


def asks(scale: Scale) -> int:
    return 1 + 3 * (1 + scale.rounds)


def run(rounds: Rounds, scale: Scale) -> None:
    options = Options(scale.answer_tokens)
    points = rounds.started(NAME)
    past = texts.history(scale.crowd_tokens, "Branching")
    points = rounds.turn(NAME, "root", 0, points, past, options, counted=False)
    for number in range(-1, scale.rounds):
        counted = number >= 0
        branch = rounds.turn(NAME, "branch", number, points, texts.question(number), options, counted=counted)
        points = {name: points[name] for name in branch}
        again = rounds.turn(
            NAME, "regenerate", number, points, texts.question(number), options, counted=counted
        )
        deeper = {name: branch[name] for name in again}
        rounds.turn(NAME, "deeper", number, deeper, texts.question(number + 1000), options, counted=counted)
