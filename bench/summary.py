"""From rows to figures: their order, medians with spread, and quotients of what belongs to one round."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from bench.records import MEASURES, Row

BASELINE = "chat"
COMPETITOR = "agentic-api"
OURS = "marginalia"
MODES = {
    BASELINE: "vLLM chat, full history",
    "responses": "vLLM responses, full input",
    "responses-previous": "vLLM responses, previous_response_id",
    "ids": "vLLM, token ids from the client",
    COMPETITOR: "agentic-api",
    "marginalia-full": "Marginalia, caching disabled",
    OURS: "Marginalia, references",
}
"""In the order in which they are shown."""


class Scenario(NamedTuple):
    """What a scenario is, and what its cases count."""

    title: str
    case: str = "case"


SCENARIOS = {
    "growing": Scenario("A chat that grows", "history, tokens"),
    "tools": Scenario("An agent's tool loop", "turn"),
    "shared": Scenario("Many short chats with one long system prompt", "turn"),
    "branch": Scenario("Branching and regenerating", "turn"),
    "crowd": Scenario("Many conversations at once", "conversations"),
    "memory": Scenario("A working set larger than the KV cache", "working set"),
    "restart": Scenario("The worker restarts", "turn"),
    "kvcached-basic": Scenario("kvcached: basic prefix"),
    "kvcached-long": Scenario("kvcached: long prefix"),
    "kvcached-lru": Scenario("kvcached: least recently used"),
    "real": Scenario("A model that has learned to write", "turn"),
    "store": Scenario("What a turn costs in a deep conversation", "turn"),
}
"""In the order in which they are shown."""

CASES = (
    "question",
    "step",
    "first turn",
    "second turn",
    "branch",
    "regenerate",
    "deeper",
    "fits",
    "too large",
    "first",
    "cached",
    "recent",
    "evicted",
    "before",
    "first turn after",
    "second turn after",
)
"""Cases that are no numbers, in their order."""

MORE_IS_BETTER = frozenset({"turns_per_s"})
RESAMPLES = 2000


class Spread(NamedTuple):
    """Median and quartiles."""

    median: float
    low: float
    high: float


class Ratio(NamedTuple):
    """One quotient per round: their median and its 95% interval. None where no round could be compared."""

    median: float | None
    low: float
    high: float
    compared: int
    rounds: int
    """In which both have a value."""
    unequal: int
    """Of them left out, because the engine was not given the ids of a full render."""


def scenarios(rows: Iterable[Row]) -> list[str]:
    """Known ones first; none is left out."""
    return _ordered((row.scenario for row in rows), SCENARIOS)


def modes(rows: Iterable[Row]) -> list[str]:
    """Known ones first; none is left out."""
    return _ordered((row.mode for row in rows), MODES)


def cases(rows: Iterable[Row]) -> list[str]:
    """Numbers by their size, then known words, then the rest."""
    words = _ordered((row.case for row in rows), CASES)
    numbers = {case: number for case in words if (number := as_number(case)) is not None}
    return sorted(numbers, key=numbers.__getitem__) + [case for case in words if case not in numbers]


def measures(rows: Iterable[Row]) -> list[str]:
    """Those that any row has: known ones first; none is left out."""
    return _ordered((name for row in rows for name in row.measures), MEASURES)


def select(rows: Iterable[Row], scenario: str, case: str | None = None, mode: str | None = None) -> list[Row]:
    """Rows of a scenario; of one case and mode, where they are given."""
    return [
        row
        for row in rows
        if row.scenario == scenario and case in (None, row.case) and mode in (None, row.mode)
    ]


def spread(rows: Iterable[Row], measure: str) -> Spread | None:
    """Over rows, whether or not their work was equal; None where none has the measure."""
    values = [row.measures[measure] for row in rows if measure in row.measures]
    if not values:
        return None
    low, median, high = np.percentile(values, (25, 50, 75))
    return Spread(float(median), float(low), float(high))


def per_round(rows: Iterable[Row], measure: str) -> dict[int, float]:
    """The median of each round: rows of one round are not independent of each other."""
    found = defaultdict(list)
    for row in rows:
        if measure in row.measures:
            found[row.round].append(row.measures[measure])
    return {number: float(np.median(values)) for number, values in found.items()}


def interval(values: Sequence[float], resamples: int = RESAMPLES) -> tuple[float, float]:
    """95% percentile bootstrap of the median (Efron 1979). The same values give the same interval."""
    drawn = np.random.default_rng(0).choice(np.asarray(values), (resamples, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return float(low), float(high)


def ratio(above: Sequence[Row], below: Sequence[Row], measure: str) -> Ratio:
    """`above` / `below`, round by round. A round with an unequal row on either side is left out."""
    over, under = per_round(above, measure), per_round(below, measure)
    unequal = {row.round for row in (*above, *below) if row.equal is False}
    rounds = over.keys() & under.keys()
    quotients = [over[number] / under[number] for number in sorted(rounds - unequal) if under[number]]
    low, high = interval(quotients) if quotients else (0.0, 0.0)
    median = float(np.median(quotients)) if quotients else None
    return Ratio(median, low, high, len(quotients), len(rounds), len(rounds & unequal))


def advantage(rows: Sequence[Row], scenario: str, case: str, mode: str, measure: str) -> Ratio:
    """How many times better than the baseline a mode is: above 1 is better, whatever the measure."""
    baseline, other = (select(rows, scenario, case, name) for name in (BASELINE, mode))
    better, worse = (other, baseline) if measure in MORE_IS_BETTER else (baseline, other)
    return ratio(better, worse, measure)


def digits(value: float) -> str:
    """At least three significant digits, and no decimals where there is nothing behind the point."""
    if abs(value) >= 99.95 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:#.3g}"


def as_number(case: str) -> float | None:
    """None for a word."""
    try:
        return float(case)
    except ValueError:
        return None


def case_label(case: str) -> str:
    """Numbers with their thousands told apart."""
    value = as_number(case)
    return case if value is None else f"{value:,.10g}"


def _ordered(names: Iterable[str], known: Iterable[str]) -> list[str]:
    found = dict.fromkeys(names)
    first = [name for name in known if name in found]
    return first + [name for name in found if name not in first]
