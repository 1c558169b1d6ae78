"""A chat that grows: at each length, the next question again and again, all modes from the same history."""

import statistics

from bench import texts
from bench.modes import Options
from bench.records import Row
from bench.rounds import Rounds
from bench.scale import Scale

NAME = "growing"
WARM_UP_ROUNDS = 1


def asks(scale: Scale) -> int:
    return len(scale.lengths) * (1 + WARM_UP_ROUNDS + scale.rounds)


def run(rounds: Rounds, scale: Scale) -> None:
    for tokens in scale.lengths:
        options = Options(answer_tokens=scale.answer_tokens)
        past = texts.history(tokens, "Growing")
        points = rounds.started(NAME)
        points = rounds.turn(NAME, str(tokens), 0, points, past, options, counted=False)
        # Each round branches off there, so that all rounds have the same length.
        for number in range(-WARM_UP_ROUNDS, scale.rounds):
            question = texts.question(number)
            after = rounds.turn(NAME, str(tokens), number, points, question, options, counted=number >= 0)
            points = {name: points[name] for name in after}
        name_by_length(rounds.run.rows, str(tokens))


def name_by_length(rows: list[Row], case: str) -> None:
    """Texts are made by characters: how many tokens they are is known once they were measured."""
    made = [row for row in rows if row.scenario == NAME and row.case == case]
    length = round(statistics.median_low(row.measures["prompt_tokens"] for row in made)) if made else 0
    for row in made:
        row.case = str(length)
