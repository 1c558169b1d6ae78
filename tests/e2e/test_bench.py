"""The benchmark on a real vLLM, small: every mode does the same work, and what it says of it can be right."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench import stack
from bench.engines import ON_A_CPU
from bench.modes import ALL
from bench.records import MEASURES, Row, Run
from bench.rounds import Rounds
from bench.scale import QUICK
from bench.scenarios import branch, growing, store, tools

SMALL = replace(
    QUICK, lengths=(600,), rounds=1, tool_rounds=2, crowd_tokens=600, depths=(3, 6), depth_rounds=1
)
THINKING = next(engine for engine in ON_A_CPU if tools in engine.scenarios)
BY_REFERENCE = "responses-previous"
OTHERWISE = {BY_REFERENCE, "ids"}
"""On this engine they continue otherwise: vLLM forgets what was no text, and ids alone do not tell reasoning
from text."""


class Silent:
    def say(self, text: str) -> None:
        """Nobody looks."""

    def step(self) -> None:
        """Nobody counts."""


@pytest.fixture(scope="module")
def rounds(reachable_dir: Path) -> Iterator[Rounds]:
    """On the engine with tools and reasoning: what the others do, it does as well."""
    directory = reachable_dir / "bench"
    directory.mkdir()
    with stack.running(
        str(THINKING.model()),
        THINKING.arguments,
        directory,
        directory / "logs",
        lambda _: None,
        policy=THINKING.policy,
        environment={"VLLM_CPU_KVCACHE_SPACE": "1"},
    ) as servers:
        yield Rounds(servers, Run({}, {}), list(ALL), Silent(), lambda: None)


@pytest.fixture(autouse=True)
def _fresh(rounds: Rounds) -> None:
    rounds.run = Run({}, {})


def rows(rounds: Rounds, mode: str) -> list[Row]:
    return [row for row in rounds.run.rows if row.mode == mode]


def test_every_mode_gives_the_engine_the_same_ids_in_a_chat(rounds: Rounds) -> None:
    branch.run(rounds, SMALL)
    assert rounds.run.not_run == []
    assert {row.mode for row in rounds.run.rows} == set(ALL)
    assert [row for row in rounds.run.rows if not row.equal and row.mode not in OTHERWISE] == []
    assert {row.path for row in rows(rounds, "marginalia")} <= {"hit", "rewind"}
    assert {row.path for row in rows(rounds, "marginalia-full")} == {"full"}


def test_only_references_leave_the_history_where_it_is(rounds: Rounds) -> None:
    growing.run(rounds, SMALL)
    (ours,), (whole,) = rows(rounds, "marginalia"), rows(rounds, "chat")
    assert ours.answer == whole.answer
    assert ours.measures["engine_bytes"] < whole.measures["engine_bytes"] / 3
    assert ours.measures["tokenized_tokens"] < whole.measures["tokenized_tokens"] / 3
    assert ours.measures["cached_tokens"] == whole.measures["cached_tokens"]
    assert ours.measures["statements"] >= 1


def test_what_a_turn_takes_adds_up(rounds: Rounds) -> None:
    growing.run(rounds, SMALL)
    for row in rounds.run.rows:
        assert set(row.measures) <= set(MEASURES)
        parts = [row.measures[name] for name in ("before_ms", "api_ms", "engine_ms", "relay_ms")]
        assert min(parts) >= 0
        assert sum(parts) == pytest.approx(row.measures["ttft_ms"])


def test_a_tool_loop_goes_on_by_reference_and_its_reasoning_is_dropped(rounds: Rounds) -> None:
    tools.run(rounds, SMALL)
    assert [(row.case, row.path, row.reason, row.equal) for row in rows(rounds, "marginalia")] == [
        ("question", "full", "new_conversation", True),
        ("step", "hit", None, True),
        ("step", "hit", None, True),
        ("question", "rewind", "history_rewritten", True),
        ("step", "hit", None, True),
        ("step", "hit", None, True),
    ]
    assert [entry.mode for entry in rounds.run.not_run] == ["ids"]
    assert [row for row in rows(rounds, "agentic-api") if not row.equal] == []


def test_vllm_by_reference_is_found_to_lose_the_calls(rounds: Rounds) -> None:
    tools.run(rounds, SMALL)
    assert not all(row.equal for row in rows(rounds, BY_REFERENCE))


def test_the_store_is_measured_at_each_depth(rounds: Rounds) -> None:
    store.run(rounds, SMALL)
    for mode in ("agentic-api", "marginalia"):
        stored = {row.case: row.measures["stored_bytes"] for row in rows(rounds, mode) if row.round == -1}
        assert set(stored) == {"3", "6"}
        assert all(size > 0 for size in stored.values())
        assert {row.case for row in rows(rounds, mode) if "service_ms" in row.measures} == {"3", "6"}
