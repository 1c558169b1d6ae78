"""Conversations at once, each asking again as soon as it is answered. One mode after the other, in random
order.

Each conversation of each mode has a text of its own, so that no mode finds another's KV cache.
"""

import random
import threading
import time

from bench import http, texts
from bench.modes import Answer, Mode, Options, Point
from bench.records import Row
from bench.rounds import Rounds
from bench.scale import Scale

NAME = "crowd"


def asks(scale: Scale) -> int:
    return max(scale.crowds) + sum(scale.crowds) * (1 + scale.crowd_turns)


def run(rounds: Rounds, scale: Scale) -> None:
    options = Options(scale.answer_tokens)
    names = list(rounds.started(NAME))
    most = max(scale.crowds)
    talks: dict[str, list[Point]] = {name: [] for name in names}
    for name in names:
        for number in range(most):
            rounds.progress.say(f"{NAME}: {name} prepares conversation {number + 1} of {most}")
            past = texts.history(scale.crowd_tokens, f"Crowd {name} {number}")
            try:
                talks[name].append(rounds.modes[name].ask(Point(), past, options)[1])
                rounds.progress.step()
            except http.Refused as exc:
                rounds.refused(NAME, name, str(exc))
                break
    chance = random.Random(NAME)
    for count in scale.crowds:
        chance.shuffle(names)
        for name in names:
            if len(talks[name]) == most:
                rounds.progress.say(f"{NAME} of {count}: {name}")
                _one(rounds, rounds.modes[name], talks[name][:count], scale, options)


def _one(rounds: Rounds, mode: Mode, points: list[Point], scale: Scale, options: Options) -> None:
    """All of `points` at once, each for some turns after one that only warms up."""
    case = str(len(points))
    try:
        for _ in _talk(mode, points, 1, options):
            rounds.progress.step()
        began = time.monotonic()
        answers = _talk(mode, points, scale.crowd_turns, options)
        seconds = time.monotonic() - began
    except http.Refused as exc:
        rounds.refused(NAME, mode.name, f"{case}: {exc}")
        return
    for number, answer in enumerate(answers):
        rounds.progress.step()
        began, ended = answer.streamed.began, answer.streamed.ended
        timed = {"ttft_ms": 1e3 * (answer.first - began), "latency_ms": 1e3 * (ended - began)}
        path, reason = answer.caching.get("path"), answer.caching.get("reason")
        rounds.run.rows.append(Row(NAME, case, mode.name, number, path, reason, measures=timed))
    rate = {"turns_per_s": len(answers) / seconds}
    rounds.run.rows.append(Row(NAME, case, mode.name, len(answers), measures=rate))


def _talk(mode: Mode, points: list[Point], turns: int, options: Options) -> list[Answer]:
    """`turns` turns of each conversation, from the same point on. Raises http.Refused where one broke off."""
    answers: list[Answer] = []
    broke: list[http.Refused] = []

    def talk(number: int) -> None:
        try:
            for turn in range(turns):
                question = texts.question(1000 * turns + turn)
                answers.append(mode.answer(points[number], question, options))
        except http.Refused as exc:
            broke.append(exc)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(len(points))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if broke:
        raise broke[0]
    return answers
