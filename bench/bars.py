"""The panels with a line for each mode: the parts of a turn, and what a restart costs."""

from collections.abc import Callable, Sequence

from matplotlib.axes import Axes

from bench import picture
from bench.records import MEASURES, Row
from bench.summary import cases, digits, select, spread

PARTS = {
    "before_ms": "#E69F00",
    "api_ms": "#0072B2",
    "engine_ms": "#999999",
    "relay_ms": "#56B4E9",
    "after_ms": "#F0E442",
}
"""The first four are the time to the first token."""
AROUND = (("#0072B2", "o"), ("#D55E00", "D"), ("#009E73", "^"), ("#999999", "s"))
"""Colours and marks of the turns around a restart."""


def stack(axes: Axes, names: Sequence[str], rows: Sequence[Row]) -> None:
    """The parts of each mode's turn, one behind the other. A mode without parts is one pale bar."""
    for place, mode in enumerate(names):
        of_mode = [row for row in rows if row.mode == mode]
        parts = {part: found.median for part in PARTS if (found := spread(of_mode, part)) is not None}
        whole = spread(of_mode, "ttft_ms")
        left = 0.0
        for part, width in parts.items():
            hatch = "////" if part == "after_ms" else None
            name = MEASURES[part].label
            axes.barh(
                place, width, left=left, color=PARTS[part], hatch=hatch, edgecolor="white", lw=0.5, label=name
            )
            left += width
        if whole is None:
            picture.say(axes, "not run" if not of_mode else "", (left, place))
            continue
        if not parts:
            axes.barh(place, whole.median, color="#dddddd", label="not told apart")
            left = whole.median
        after = f" + {parts['after_ms']:.1f}" if "after_ms" in parts else ""
        picture.say(axes, f"{digits(whole.median)}{after}", (left, place))
    axes.margins(x=0.22)
    _by_mode(axes, names)


def recovery(axes: Axes, names: Sequence[str], rows: Sequence[Row]) -> None:
    """A bar for each mode: its first turn after the restart."""
    first = cases(row for row in rows if "recovery_s" in row.measures)[0]
    for place, mode in enumerate(names):
        found = spread(select(rows, "restart", first, mode), "recovery_s")
        if found is not None:
            error = picture.errors([found])
            axes.barh(place, found.median, 0.6, color=picture.colour(mode), xerr=error, ecolor="#777777")
            picture.say(axes, digits(found.median), (found.high, place))
    axes.margins(x=0.15)
    _by_mode(axes, names)


def around(axes: Axes, names: Sequence[str], rows: Sequence[Row]) -> None:
    """Marks on a logarithmic axis: the first turn after may take many times that of another."""
    for number, case in enumerate(cases(rows)):
        shade, mark = AROUND[min(number, len(AROUND) - 1)]
        spreads = [spread(select(rows, "restart", case, mode), "ttft_ms") for mode in names]
        found = {place: one for place, one in enumerate(spreads) if one is not None}
        axes.errorbar(
            [one.median for one in found.values()],
            list(found),
            xerr=picture.errors(list(found.values())),
            linestyle="",
            color=shade,
            marker=mark,
            markersize=7,
            capsize=2.5,
            label=case,
        )
    axes.set_xscale("log")
    picture.log_values(axes.xaxis)
    _by_mode(axes, names)


RESTART: dict[str, Callable[[Axes, Sequence[str], Sequence[Row]], None]] = {
    "recovery_s": recovery,
    "ttft_ms": around,
}
"""By the measure that they show."""


def _by_mode(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [picture.label(mode) for mode in names], fontsize=9)
    axes.set_ylim(len(names) - 0.5, -0.5)
    picture.grid(axes, "x")
