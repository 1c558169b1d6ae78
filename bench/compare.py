"""What moved between two runs: medians, and the safer figure, the ratio to the baseline of the same run."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bench.records import Row, Run
from bench.report import flat, title
from bench.summary import (
    BASELINE,
    advantage,
    case_label,
    cases,
    digits,
    interval,
    measures,
    modes,
    per_round,
    scenarios,
    select,
)

ALWAYS = (
    "ttft_ms",
    "tpot_ms",
    "latency_ms",
    "service_ms",
    "database_ms",
    "statements",
    "engine_bytes",
    "stored_bytes",
    "service_cpu_ms",
    "api_cpu_ms",
    "turns_per_s",
    "recovery_s",
)
"""Shown whether or not they moved; other measures only where they did."""
FEWEST_ROUNDS = 5
"""With fewer, the ends of a bootstrap interval are the extreme values: chance moves them too often."""
HOW = f"""\
moved: the 95% intervals (bootstrap of the median over rounds) of A and B do not overlap. noise: they do.
few: fewer than {FEWEST_ROUNDS} rounds on a side, not told. The ratio is to `{BASELINE}` in the same rounds of
the same run, above 1 is better than it; where the machine was busier in one run, believe the ratio. Of a
hundred lines, one or two move by chance."""
HEADING = ("case", "mode", "measure", "A", "B", "change", "", "ratio A", "ratio B", "change", "")


class Middle(NamedTuple):
    """A median, its 95% interval, and of how many rounds."""

    median: float
    low: float
    high: float
    rounds: int


def text(a: Run, b: Run) -> str:
    """First where the runs differ in more than time, then what moved, then everything that both have."""
    tables = {name: list(_lines(a.rows, b.rows, name)) for name in scenarios([*a.rows, *b.rows])}
    moved = [(name, *line) for name, lines in tables.items() for line in lines if "moved" in line]
    parts = [*_differences(a, b), HOW]
    parts.append(f"Moved\n{_aligned([('scenario', *HEADING), *moved])}" if moved else "Nothing moved.")
    parts += [f"{title(name)}\n{_aligned([HEADING, *lines])}" for name, lines in tables.items() if lines]
    for one, other, missing in ((a, b, "B"), (b, a, "A")):
        absent = list(_absent(one.rows, other.rows))
        if absent:
            parts.append(f"Not in {missing}:\n" + "\n".join(f"  {line}" for line in absent))
    return "\n\n".join(parts) + "\n"


def _differences(a: Run, b: Run) -> list[str]:
    left, right = ({**flat(run.machine, "machine."), **flat(run.settings, "settings.")} for run in (a, b))
    lines = [
        f"  {name}: {left.get(name, 'absent')} | {right.get(name, 'absent')}"
        for name in dict.fromkeys([*left, *right])
        if left.get(name) != right.get(name)
    ]
    return ["WARNING: the runs differ in more than time (A | B):\n" + "\n".join(lines)] if lines else []


def _lines(a: list[Row], b: list[Row], scenario: str) -> Iterator[tuple[str, ...]]:
    both = [*select(a, scenario), *select(b, scenario)]
    for case in cases(both):
        for mode in modes(both):
            of_a, of_b = select(a, scenario, case, mode), select(b, scenario, case, mode)
            for measure in measures(both):
                left, right = _middle(of_a, measure), _middle(of_b, measure)
                if left is None or right is None:
                    continue
                if measure not in ALWAYS and verdict(left, right) != "moved":
                    continue
                ratios = (_advantage(rows, scenario, case, mode, measure) for rows in (a, b))
                yield case_label(case), mode, measure, *_beside(left, right), *_beside(*ratios)


def _middle(rows: Sequence[Row], measure: str) -> Middle | None:
    values = list(per_round(rows, measure).values())
    return Middle(float(np.median(values)), *interval(values), len(values)) if values else None


def _advantage(rows: list[Row], scenario: str, case: str, mode: str, measure: str) -> Middle | None:
    if mode == BASELINE:
        return None
    found = advantage(rows, scenario, case, mode, measure)
    return None if found.median is None else Middle(found.median, found.low, found.high, found.compared)


def _beside(a: Middle | None, b: Middle | None) -> tuple[str, ...]:
    """A, B, the change, and whether it is more than noise."""
    shown = ["" if side is None else digits(side.median) for side in (a, b)]
    if a is None or b is None:
        return (*shown, "", "")
    return (*shown, f"{b.median / a.median - 1:+.1%}" if a.median else "", verdict(a, b))


def verdict(a: Middle, b: Middle) -> str:
    """`moved`, `noise` or `few`, as HOW says."""
    if min(a.rounds, b.rounds) < FEWEST_ROUNDS:
        return "few"
    return "moved" if a.high < b.low or b.high < a.low else "noise"


def _absent(rows: Sequence[Row], others: Sequence[Row]) -> Iterator[str]:
    """Turns that only `rows` have, and measures that only they have of the same turns."""
    here, there = _measures_by_turn(rows), _measures_by_turn(others)
    for turn, names in sorted(here.items()):
        if turn not in there:
            yield " / ".join(turn)
        elif only_here := names - there[turn]:
            yield f"{' / '.join(turn)}: {', '.join(sorted(only_here))}"


def _measures_by_turn(rows: Sequence[Row]) -> dict[tuple[str, str, str], set[str]]:
    found: dict[tuple[str, str, str], set[str]] = {}
    for row in rows:
        found.setdefault((row.scenario, row.case, row.mode), set()).update(row.measures)
    return found


def _aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )
