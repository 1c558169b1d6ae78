"""vLLM is killed and started again in mid-conversation: what the next turns of each mode take.

Each conversation of each mode has a text of its own: nothing that one recovers helps another. The KV cache is
empty for all.
"""

import random

from bench import http, texts
from bench.modes import Options, Point
from bench.rounds import Rounds
from bench.scale import Scale

NAME = "restart"
CONVERSATIONS = 3
"""Of each mode; one round each."""


def asks(scale: Scale) -> int:
    return 5 * CONVERSATIONS


def run(rounds: Rounds, scale: Scale) -> None:
    options = Options(scale.answer_tokens)
    talks: dict[tuple[str, int], Point] = {}
    for name, point in rounds.started(NAME).items():
        for number in range(CONVERSATIONS):
            past = texts.history(scale.crowd_tokens, f"Restart {name} {number}")
            try:
                talks[name, number] = rounds.modes[name].ask(point, past, options)[1]
            except http.Refused as exc:
                rounds.refused(NAME, name, str(exc))
    _turns(rounds, talks, (("", 0), ("before", 1)), options)
    rounds.progress.say(f"{NAME}: vLLM is killed and starts again")
    vllm = rounds.stack.vllm
    vllm.kill()
    vllm.stop()
    vllm.start()
    vllm.wait_ready(lambda status: rounds.progress.say(f"{NAME}: vLLM: {status}"))
    # A stranger's turn each: what a process does once, at its first request, is nobody's recovery.
    _turns(rounds, {(name, -1): point for name, point in rounds.started(NAME).items()}, (("", 0),), options)
    _turns(rounds, talks, (("first turn after", 2), ("second turn after", 3)), options)


def _turns(
    rounds: Rounds,
    talks: dict[tuple[str, int], Point],
    cases: tuple[tuple[str, int], ...],
    options: Options,
) -> None:
    """The same turns of all conversations, in random order. A case without a name is not counted."""
    for case, question in cases:
        keys = list(talks)
        random.Random(f"{NAME} {case}").shuffle(keys)
        for name, number in keys:
            point = talks[name, number]
            try:
                row, talks[name, number] = rounds.one(
                    NAME, case, name, number, point, texts.question(question), options
                )
            except http.Refused as exc:
                rounds.refused(NAME, name, f"{case}: {exc}")
                del talks[name, number]
                continue
            if case == "first turn after":
                row.measures["recovery_s"] = row.measures["latency_ms"] / 1e3
            rounds.keep(row, counted=bool(case))
