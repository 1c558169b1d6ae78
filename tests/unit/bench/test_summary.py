"""Figures from rows with known ones."""

import numpy as np
import pytest

from bench import summary
from bench.records import Row
from tests.unit.bench.runs import turns


def ratio_of(chat: list[Row], other: list[Row], measure: str = "ttft_ms") -> summary.Ratio:
    return summary.advantage([*chat, *other], "growing", "1000", "ids", measure)


def test_median_and_quartiles_are_over_all_rows_that_have_the_measure() -> None:
    rows = turns("growing", "1000", "chat", "ttft_ms", [5, 1, 3, 2, 4])
    rows += turns("growing", "1000", "chat", "latency_ms", [100])
    assert summary.spread(rows, "ttft_ms") == (3, 2, 4)
    assert summary.spread(rows, "tpot_ms") is None


def test_a_ratio_is_the_median_of_quotients_within_rounds() -> None:
    """Of these the quotient of the medians is 1: the slow rounds are not the same."""
    chat = turns("growing", "1000", "chat", "ttft_ms", [10, 100, 1000])
    ids = turns("growing", "1000", "ids", "ttft_ms", [100, 50, 500])
    found = ratio_of(chat, ids)
    assert (found.median, found.compared, found.rounds, found.unequal) == (2, 3, 3, 0)
    assert 0.1 <= found.low <= 2 <= found.high


def test_more_turns_per_second_are_better() -> None:
    chat = turns("growing", "1000", "chat", "turns_per_s", [10])
    ids = turns("growing", "1000", "ids", "turns_per_s", [30])
    assert ratio_of(chat, ids, "turns_per_s").median == 3


@pytest.mark.parametrize("side", [0, 1])
def test_rounds_with_unequal_work_on_either_side_are_left_out(side: int) -> None:
    chat = turns("growing", "1000", "chat", "ttft_ms", [20, 20, 900])
    ids = turns("growing", "1000", "ids", "ttft_ms", [10, 10, 10])
    for row in (*chat, *ids):
        row.equal = True
    (chat, ids)[side][2].equal = False
    found = ratio_of(chat, ids)
    assert (found.median, found.high, found.compared, found.rounds, found.unequal) == (2, 2, 2, 3, 1)


def test_work_that_was_not_compared_is_not_unequal() -> None:
    chat = turns("growing", "1000", "chat", "ttft_ms", [20])
    assert ratio_of(chat, turns("growing", "1000", "ids", "ttft_ms", [10])).compared == 1


def test_no_common_round_no_ratio() -> None:
    chat, ids = turns("growing", "1000", "chat", "ttft_ms", [1]), [Row("growing", "1000", "ids", 7)]
    assert ratio_of(chat, ids).median is None
    unequal = turns("growing", "1000", "ids", "ttft_ms", [1])
    unequal[0].equal = False
    assert ratio_of(chat, unequal)[3:] == (0, 1, 1)


def test_a_round_with_many_rows_counts_once() -> None:
    rows = [Row("crowd", "4", "chat", 0, measures={"ttft_ms": value}) for value in (1.0, 2.0, 30.0)]
    assert summary.per_round(rows, "ttft_ms") == {0: 2.0}


def test_nothing_is_divided_by_zero() -> None:
    chat = turns("growing", "1000", "chat", "stored_bytes", [8, 8])
    found = ratio_of(chat, turns("growing", "1000", "ids", "stored_bytes", [0, 4]), "stored_bytes")
    assert (found.median, found.compared, found.rounds) == (2, 1, 2)


def test_the_interval_holds_the_median_narrows_with_rounds_and_is_repeatable() -> None:
    few, many = [8.0, 9.0, 10.0, 11.0, 12.0], [8.0, 9.0, 10.0, 11.0, 12.0] * 40
    assert summary.interval(few)[0] <= 10 <= summary.interval(few)[1]
    width = [high - low for low, high in (summary.interval(few), summary.interval(many))]
    assert width[1] < width[0]
    assert summary.interval([7.0]) == (7, 7)
    spread_out = [float(value) ** 2 for value in range(40)]
    # Of one resample only: drawn anew it would be another.
    assert summary.interval(spread_out, resamples=1) == summary.interval(spread_out, resamples=1)


def test_the_interval_covers_the_true_median_about_nineteen_times_of_twenty() -> None:
    samples = np.random.default_rng(1).normal(size=(400, 15))
    covered = sum(low <= 0 <= high for low, high in (summary.interval(list(one), 300) for one in samples))
    assert 0.90 <= covered / len(samples) <= 0.985


def test_order_known_first_and_nothing_left_out() -> None:
    rows = [
        Row("invented", "x", "marginalia", 0, measures={"invented_ms": 1.0, "ttft_ms": 1.0}),
        Row("store", "1000", "my own", 0),
        Row("growing", "20", "chat", 0),
        Row("growing", "second turn", "chat", 0),
        Row("growing", "first turn", "chat", 0),
    ]
    assert summary.scenarios(rows) == ["growing", "store", "invented"]
    assert summary.modes(rows) == ["chat", "marginalia", "my own"]
    assert summary.cases(rows) == ["20", "1000", "first turn", "second turn", "x"]
    assert summary.measures(rows) == ["ttft_ms", "invented_ms"]


@pytest.mark.parametrize(
    ("value", "said"),
    [(0.12345, "0.123"), (1.5, "1.50"), (12.345, "12.3"), (99.97, "100"), (123456.7, "123,457"), (7.0, "7")],
)
def test_digits(value: float, said: str) -> None:
    assert summary.digits(value) == said
