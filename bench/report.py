"""A run as Markdown: what it was measured on, a table of times per scenario and what explains them."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.records import MEASURES, Row, Run
from bench.summary import (
    BASELINE,
    COMPETITOR,
    MODES,
    MORE_IS_BETTER,
    OURS,
    SCENARIOS,
    Ratio,
    Scenario,
    advantage,
    case_label,
    cases,
    digits,
    measures,
    modes,
    ratio,
    scenarios,
    select,
    spread,
)

NONE = "-"
TIMES = ("ttft_ms", "tpot_ms", "latency_ms", "turns_per_s", "recovery_s")
RATED = ("ttft_ms", "latency_ms", "turns_per_s", "recovery_s")
"""Compared with the baseline."""
SPLIT = (
    "before_ms",
    "api_ms",
    "engine_ms",
    "relay_ms",
    "after_ms",
    "service_ms",
    "database_ms",
    "statements",
)
HOW_TO_READ = f"""\
Cells are medians over the rows, in brackets the quartiles. A ratio says how many times better than
`{BASELINE}` a mode is (above 1: better): the median of one quotient per round, in brackets its 95% interval
(bootstrap), then the number of rounds compared. A round in which the engine was given other ids than those of
a full render is left out of it (`unequal`); the medians have all rows. `answers` counts those with the text
that `{BASELINE}` has in the same round."""

Columns = list[tuple[str, Callable[[str, str], str]]]
"""Heading, and what stands below it for a case and a mode."""


def write(run: Run, directory: Path, pictures: Sequence[Path] = ()) -> list[Path]:
    """report.md in `directory`, with the `pictures` that lie beside it. Returns the files."""
    path = directory / "report.md"
    path.write_text(text(run, [picture.name for picture in pictures]))
    return [path]


def text(run: Run, pictures: Sequence[str] = ()) -> str:
    """The whole report. `pictures`: file names."""
    parts = ["# Benchmark", _head(run), HOW_TO_READ, "\n".join(f"![{name}]({name})" for name in pictures)]
    for name in scenarios(run.rows):
        parts += [f"## {title(name)}", *_scenario(run.rows, name)]
    if run.not_run:
        left_out = [[entry.scenario, entry.mode or "all", entry.why] for entry in run.not_run]
        parts += ["## What could not run, and why", table(["scenario", "mode", "why"], left_out)]
    if run.notes:
        parts += ["## Notes", "\n".join(f"- {' '.join(note.split())}" for note in run.notes)]
    return "\n\n".join(part for part in parts if part) + "\n"


def title(scenario: str) -> str:
    """With the name that the rows have."""
    return f"{SCENARIOS[scenario].title} (`{scenario}`)" if scenario in SCENARIOS else f"`{scenario}`"


def table(heading: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table; what would break it is escaped."""
    shown = [heading, ["---"] * len(heading), *lines]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in shown)


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings by their dotted names."""
    found: dict[str, str] = {}
    for name, value in values.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: str(value)}
    return found


def _head(run: Run) -> str:
    lines = [
        [kind, name, value]
        for kind, values in (("machine", run.machine), ("settings", run.settings))
        for name, value in flat(values).items()
    ]
    return table(["", "", ""], lines)


def _scenario(rows: list[Row], scenario: str) -> list[str]:
    of_scenario = select(rows, scenario)
    there = measures(of_scenario)
    work = [name for name in there if name not in (*TIMES, *SPLIT)]
    tables = [
        _table(of_scenario, scenario, "", _times(of_scenario, scenario, there)),
        _table(of_scenario, scenario, "Where the time goes", _medians(of_scenario, scenario, there, SPLIT)),
        _table(of_scenario, scenario, "Work", _medians(of_scenario, scenario, there, work)),
    ]
    return [part for part in tables if part] + (_depth(of_scenario) if scenario == "store" else [])


def _table(rows: list[Row], scenario: str, caption: str, columns: Columns) -> str:
    """A line per case and mode that has rows; "" without columns."""
    if not columns:
        return ""
    pairs = [
        (case, mode) for case in cases(rows) for mode in modes(rows) if select(rows, scenario, case, mode)
    ]
    lines = [
        [case_label(case), _mode(mode), *(say(case, mode) for _, say in columns)] for case, mode in pairs
    ]
    heading = [SCENARIOS.get(scenario, Scenario("")).case, "mode", *(name for name, _ in columns)]
    # A blank line after the caption: without it Markdown takes the table for its text.
    return (f"**{caption}**\n\n" if caption else "") + table(heading, lines)


def _times(rows: list[Row], scenario: str, there: list[str]) -> Columns:
    columns = _medians(rows, scenario, there, TIMES)

    def rated(measure: str) -> Callable[[str, str], str]:
        return lambda case, mode: (
            NONE if mode == BASELINE else _ratio(advantage(rows, scenario, case, mode, measure))
        )

    if any(row.mode == BASELINE for row in rows):
        for measure in RATED:
            if measure in there:
                better = f"{MEASURES[measure].label}: "
                better += f"mode / {BASELINE}" if measure in MORE_IS_BETTER else f"{BASELINE} / mode"
                columns.append((better, rated(measure)))
    if any(row.path for row in rows):
        columns.append(("path: reason", lambda case, mode: _paths(select(rows, scenario, case, mode))))
    if any(row.equal is not None for row in rows):
        columns.append(("equal", lambda case, mode: _equal(select(rows, scenario, case, mode))))
    if any(row.answer for row in rows):
        columns.append(("answers", lambda case, mode: _answers(rows, scenario, case, mode)))
    return columns


def _medians(rows: list[Row], scenario: str, there: Iterable[str], wanted: Sequence[str]) -> Columns:
    def column(measure: str) -> tuple[str, Callable[[str, str], str]]:
        known = MEASURES.get(measure)
        heading = measure if known is None else f"{known.label}, {known.unit}" if known.unit else known.label
        return heading, lambda case, mode: _spread(select(rows, scenario, case, mode), measure)

    return [column(measure) for measure in wanted if measure in there]


def _spread(rows: list[Row], measure: str) -> str:
    found = spread(rows, measure)
    if found is None:
        return NONE
    if found.low == found.high:
        return digits(found.median)
    return f"{digits(found.median)} ({digits(found.low)} to {digits(found.high)})"


def _ratio(found: Ratio) -> str:
    if not found.rounds:
        return NONE
    counted = f"{found.compared} of {found.rounds}"
    if found.unequal:
        counted += f", {found.unequal} unequal"
    if found.median is None:
        return counted
    return f"**{digits(found.median)}** ({digits(found.low)} to {digits(found.high)}); {counted}"


def _paths(rows: list[Row]) -> str:
    counted = Counter(f"{row.path}: {row.reason}" if row.reason else row.path for row in rows if row.path)
    return ", ".join(f"{count} {name}" for name, count in counted.most_common()) or NONE


def _equal(rows: list[Row]) -> str:
    compared = [row.equal for row in rows if row.equal is not None]
    return f"{sum(compared)} of {len(compared)}" if compared else NONE


def _answers(rows: list[Row], scenario: str, case: str, mode: str) -> str:
    """How many answers are among those of the baseline in the same round."""
    known: dict[int, set[str]] = {}
    for row in select(rows, scenario, case, BASELINE):
        if row.answer is not None:
            known.setdefault(row.round, set()).add(row.answer)
    of_mode = select(rows, scenario, case, mode)
    same = [
        row.answer in known[row.round] for row in of_mode if row.answer is not None and row.round in known
    ]
    return f"{sum(same)} of {len(same)}" if same else NONE


def _depth(rows: list[Row]) -> list[str]:
    """How the cost of a turn grows with its depth, and how it stands to the other service's."""
    depths = cases(rows)
    costs = [name for name in ("service_ms", "stored_bytes") if name in measures(rows)]
    parts = []
    grown = [
        [case_label(depth), _mode(mode), *(_ratio(ratio(above, below, name)) for name in costs)]
        for depth in depths[1:]
        for mode in modes(rows)
        if (above := select(rows, "store", depth, mode)) and (below := select(rows, "store", depths[0], mode))
    ]
    if costs and grown:
        caption = (
            f"**Flat? Each turn's cost, divided by that of turn {case_label(depths[0])} in the same round**"
        )
        parts += [caption, table(["turn", "mode", *(MEASURES[name].label for name in costs)], grown)]
    beside = [
        [case_label(depth), *(_ratio(ratio(theirs, ours, name)) for name in costs)]
        for depth in depths
        if (theirs := select(rows, "store", depth, COMPETITOR))
        and (ours := select(rows, "store", depth, OURS))
    ]
    if costs and beside:
        caption = f"**{COMPETITOR} / {OURS}: above 1, {OURS} costs less**"
        parts += [caption, table(["turn", *(MEASURES[name].label for name in costs)], beside)]
    return parts


def _mode(mode: str) -> str:
    return f"{MODES[mode]} (`{mode}`)" if mode in MODES else f"`{mode}`"


def _cell(value: str) -> str:
    return " ".join(value.split()).replace("|", "\\|")
