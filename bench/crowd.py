"""Many conversations at once on one server: turns per second, and the time to the first token."""

import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from bench.client import Answer, Server, history, question, reference_of

ANSWER_TOKENS = 16
HEADING = (
    "| server | turns | turns/s | TTFT p50 ms | p90 | whole answer p50 ms | cached tokens per turn |\n"
    + "|---" * 7
    + "|"
)

Ask = Callable[[int], Answer]
"""A conversation's turn by its number."""


@dataclass
class Crowd:
    """What was timed on one server, in milliseconds, one value per turn."""

    server: str
    seconds: float
    first_ms: list[float]
    whole_ms: list[float]
    cached_tokens: int | None
    texts: list[list[str]]
    """Answers by conversation."""

    @property
    def turns_per_second(self) -> float:
        return len(self.first_ms) / self.seconds

    def line(self) -> str:
        """As a row under HEADING."""
        p90 = statistics.quantiles(self.first_ms, n=10)[-1]
        return (
            f"| {self.server} | {len(self.first_ms)} | {self.turns_per_second:.1f} "
            f"| {statistics.median(self.first_ms):.0f} | {p90:.0f} "
            f"| {statistics.median(self.whole_ms):.0f} | {self.cached_tokens} |"
        )

    def record(self) -> dict[str, Any]:
        return {**asdict(self), "turns_per_second": self.turns_per_second}


def whole_histories(port: int, count: int, tokens: int) -> list[Ask]:
    """`count` conversations by vLLM's own route, their KV cache warm."""

    def conversation(number: int) -> Ask:
        past, server = history(tokens, f"Conversation {number}, "), Server(port)
        server.chat(past)
        return lambda turn: server.chat([*past, *question(turn)], ANSWER_TOKENS)

    return [conversation(number) for number in range(count)]


def references(port: int, count: int, tokens: int) -> list[Ask]:
    """As `whole_histories`, by the plugin's route. Each turn is kept, as the service keeps it."""

    def conversation(number: int) -> Ask:
        past, server = history(tokens, f"Conversation {number}, "), Server(port)
        reference = reference_of(server.prefix(past, None, keep=True).receipt)
        return lambda turn: server.prefix(question(turn), reference, ANSWER_TOKENS, keep=True)

    return [conversation(number) for number in range(count)]


def run(name: str, conversations: list[Ask], first_turn: int, turns: int) -> Crowd:
    """All conversations at once; each asks its next question when it has its answer."""
    answers: list[list[Answer]] = [[] for _ in conversations]
    start = threading.Barrier(len(conversations) + 1)

    def talk(number: int) -> None:
        start.wait()
        for turn in range(first_turn, first_turn + turns):
            answers[number].append(conversations[number](turn))

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(len(conversations))]
    for thread in threads:
        thread.start()
    start.wait()
    began = time.perf_counter()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - began
    if any(len(of_one) != turns for of_one in answers):
        raise SystemExit(f"{name}: a conversation broke off")
    every = [answer for of_one in answers for answer in of_one]
    cached = {answer.receipt.get("cached_tokens", answer.cached_tokens) for answer in every}
    return Crowd(
        name,
        seconds,
        [answer.first_ms for answer in every],
        [answer.whole_ms for answer in every],
        min((count for count in cached if count is not None), default=None),
        [[answer.text for answer in of_one] for of_one in answers],
    )
