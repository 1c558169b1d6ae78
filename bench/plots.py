"""The pictures of a run. One function each, which gives None where the run has no rows for it."""

from collections.abc import Callable, Iterable
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench import bars, picture
from bench.records import MEASURES, Row, Run
from bench.summary import (
    BASELINE,
    COMPETITOR,
    OURS,
    Spread,
    advantage,
    as_number,
    case_label,
    cases,
    digits,
    measures,
    modes,
    select,
    spread,
)

MEDIANS = "Medians; bars are quartiles."


def draw(run: Run, directory: Path) -> list[Path]:
    """The files of all pictures that the run has rows for."""
    made = {name: draw_one(run) for name, draw_one in PICTURES.items()}
    return [picture.save(one, directory, name) for name, one in made.items() if one is not None]


def hero(run: Run) -> Figure | None:
    """The baseline, Marginalia and the other service over the length of the history: the one picture."""
    lines = _curves(run.rows, "growing", "ttft_ms")
    if BASELINE not in lines or OURS not in lines:
        return None
    note = "Medians of the same turns on the same vLLM; bands are quartiles."
    note += _unequal(run.rows, "growing", (BASELINE, COMPETITOR, OURS))
    made = picture.figure(run, "How long until the first token, once the chat is long?", note)
    axes = made.subplots()
    shown = [mode for mode in (BASELINE, COMPETITOR, OURS) if mode in lines]
    for mode in sorted(shown, key=lambda mode: -lines[mode][-1][1].median):
        picture.band(axes, mode, *zip(*lines[mode], strict=True))
    for mode in (BASELINE, OURS):
        x, found = lines[mode][-1]
        picture.say(axes, f"{digits(found.median)} ms", (x, found.median))
    x, found = lines[OURS][-1]
    gain = advantage(run.rows, "growing", f"{x:.0f}", OURS, "ttft_ms").median
    if gain is not None:
        said = f"{gain:.1f} times sooner" if gain >= 1 else f"{1 / gain:.1f} times later"
        said += " than with the full history"
        axes.annotate(said, (x, found.median), (0, 11), textcoords="offset points", ha="right", weight="bold")
    places = {x for curve in lines.values() for x, _ in curve}
    # Those near zero would lie on each other.
    far = sorted(x for x in places if x >= max(places) / 16)
    axes.set_xticks(far, [picture.short(x) for x in far])
    axes.set_xlim(0, max(places) * 1.1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens of history")
    axes.set_ylabel("time to first token, ms")
    axes.legend(loc="upper left", frameon=False)
    picture.grid(axes)
    return made


def ttft(run: Run) -> Figure | None:
    """Time to the first token against the length of the history, every mode."""
    title = "How does the time to the first token grow with the history?"
    return _against(
        run, "growing", "ttft_ms", title, "tokens of history", "time to first token, ms", log=True
    )


def split(run: Run) -> Figure | None:
    """Where the time of a turn goes, at the shortest and the longest history."""
    rows = select(run.rows, "growing")
    lengths = cases(row for row in rows if row.measures.keys() & bars.PARTS.keys())
    shown = [lengths[0], lengths[-1]] if len(lengths) > 1 else lengths
    if not shown:
        return None
    note = "Medians. The numbers: time to first token + what is done after the engine's answer."
    note += _unequal(rows, "growing")
    made = picture.figure(run, "Where does a turn's time go?", note, width=9.5, height=5.4)
    for axes, case in zip(made.subplots(len(shown), 1, squeeze=False)[:, 0], shown, strict=True):
        bars.stack(axes, modes(rows), select(rows, "growing", case))
        axes.set_title(f"{case_label(case)} tokens of history", loc="left", fontsize=10)
        axes.set_xlabel("ms")
    picture.legend(made)
    return made


def crowd(run: Run) -> Figure | None:
    """Turns per second against the number of conversations."""
    title = "How many turns a second with many conversations at once?"
    return _against(run, "crowd", "turns_per_s", title, "conversations at the same time", "turns per second")


def restart(run: Run) -> Figure | None:
    """What a restart of the worker costs: until the next answer, and per turn around it."""
    rows = select(run.rows, "restart")
    panels = {name: fill for name, fill in bars.RESTART.items() if name in measures(rows)}
    if not panels:
        return None
    made = picture.figure(run, "What does a restart of the worker cost?", MEDIANS, width=11)
    beside = made.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (name, fill) in zip(beside, panels.items(), strict=True):
        fill(axes, modes(rows), rows)
        axes.set_xlabel(f"{MEASURES[name].label}, {MEASURES[name].unit}")
    picture.legend(made)
    return made


def store(run: Run) -> Figure | None:
    """Bytes stored and the service's time per turn against the depth of the conversation."""
    panels = {
        name: lines for name in ("stored_bytes", "service_ms") if (lines := _curves(run.rows, "store", name))
    }
    if not panels:
        return None
    title = "Does a turn cost more when the conversation is deep?"
    made = picture.figure(run, title, MEDIANS, width=10)
    for axes, (name, lines) in zip(
        made.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        _lines(axes, lines, "turn", f"{MEASURES[name].label}, {MEASURES[name].unit}", log=True)
    picture.legend(made)
    return made


PICTURES: dict[str, Callable[[Run], Figure | None]] = {
    "hero": hero,
    "ttft": ttft,
    "split": split,
    "crowd": crowd,
    "restart": restart,
    "store": store,
}
"""By the name of their file."""

Curves = dict[str, list[tuple[float, Spread]]]
"""For each mode (x, median and quartiles), by rising x."""


def _against(
    run: Run, scenario: str, measure: str, title: str, x: str, y: str, *, log: bool = False
) -> Figure | None:
    """Every mode's line of `measure` over the cases of a scenario."""
    lines = _curves(run.rows, scenario, measure)
    if not lines:
        return None
    made = picture.figure(run, title, MEDIANS + _unequal(run.rows, scenario))
    axes = made.subplots()
    _lines(axes, lines, x, y, log)
    if not log:
        axes.set_ylim(bottom=0)
    picture.legend(made)
    return made


def _unequal(rows: list[Row], scenario: str, of: Iterable[str] = ()) -> str:
    """What a footer has to say of turns (of some modes) that were not the same work."""
    names = tuple(of)
    compared = [
        row for row in select(rows, scenario) if row.equal is not None and (not names or row.mode in names)
    ]
    unequal = sum(row.equal is False for row in compared)
    return f" {unequal} of {len(compared)} turns had other token ids than a full render." if unequal else ""


def _curves(rows: list[Row], scenario: str, measure: str) -> Curves:
    """For cases that are numbers. Zero has no place on a logarithmic axis: the report has it."""
    of_scenario = select(rows, scenario)
    found: Curves = {}
    for mode in modes(of_scenario):
        for case in cases(select(of_scenario, scenario, mode=mode)):
            one = spread(select(of_scenario, scenario, case, mode), measure)
            x = as_number(case)
            if x is not None and one is not None and one.low > 0:
                found.setdefault(mode, []).append((x, one))
    return found


def _lines(axes: Axes, lines: Curves, x: str, y: str, log: bool = False) -> None:
    for mode, curve in lines.items():
        xs, spreads = zip(*curve, strict=True)
        picture.line(axes, mode, xs, spreads)
    picture.log_cases(axes, (place for curve in lines.values() for place, _ in curve))
    if log:
        axes.set_yscale("log")
        picture.log_values(axes.yaxis)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    picture.grid(axes)
