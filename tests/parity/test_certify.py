"""What certify says of real templates, held against what is known of them."""

import functools
from collections.abc import Callable

import pytest

from app.certify.boundaries import boundaries
from app.certify.certificate import Finding
from app.certify.clock import clock
from app.certify.parity import compare
from app.certify.probing import probe
from app.certify.rewrites import PRESENT
from app.certify.scenarios import reuses
from tests.parity.offline import Offline

Load = Callable[[str], Offline]
Found = Callable[[str], dict[str, Finding]]

KNOWN = {
    "smollm2": {
        "developer_merged",
        "default_system",
        "tool_calls_left_out",
        "tools_left_out",
        "reasoning_left_out",
    },
    "qwen3": {
        "reasoning_dropped",
        "developer_merged",
        "look_ahead",
        "generation_prompt_changed",
        "tools_before_history",
        "tool_calls_reserialised",
    },
    # The short template that comes with the npm package: Meta's own would print a date.
    "llama3_1": {
        "developer_merged",
        "content_trimmed",
        "tool_calls_left_out",
        "tools_left_out",
        "reasoning_left_out",
    },
    # vLLM's `""` for an empty content is not the none that its template takes for a call: calls are lost.
    "deepseek_v3": {
        "system_merged",
        "look_ahead",
        "state_carried",
        "tool_calls_left_out",
        "tools_left_out",
        "reasoning_left_out",
    },
    "gemma3": {
        "content_trimmed",
        "tools_left_out",
        "reasoning_left_out",
        "alternation_refused",
        "late_system_refused",
        "tool_messages_refused",
    },
    "gptoss": {"reasoning_dropped", "date", "tools_before_history"},
}


@pytest.fixture(scope="module")
def found(load: Load) -> Found:
    """A family's findings, by name."""

    @functools.cache
    def get(name: str) -> dict[str, Finding]:
        with clock(PRESENT):
            return {finding.name: finding for finding in probe(load(name))}

    return get


@pytest.mark.parametrize("name", KNOWN)
def test_what_a_template_does_is_what_is_known_of_it(name: str, found: Found) -> None:
    assert set(found(name)) == KNOWN[name]


def test_qwen3_in_detail(found: Found) -> None:
    qwen3 = found("qwen3")
    assert "<think>\nthought-1" in qwen3["reasoning_dropped"].before
    assert "thought-1" not in qwen3["reasoning_dropped"].after
    assert "tool before tool" in qwen3["look_ahead"].sentence
    assert qwen3["generation_prompt_changed"].when == ("enable_thinking=false",)
    assert qwen3["reasoning_dropped"].when == ()
    # A loop of three calls at the end of a chat: about the last half.
    assert 0.3 < (qwen3["reasoning_dropped"].rewritten or 0) < 0.7


def test_qwen3_forgets_reasoning_after_a_loop_and_little_is_tokenized_again(load: Load) -> None:
    reuse = {one.scenario: one for one in reuses(load("qwen3"))}
    assert reuse["plain chat"].path == reuse["tool loop"].path == "hit"
    after = reuse["next question after a tool loop with reasoning"]
    assert after.path == "rewind"
    assert after.standing < 0.6 * after.tokens and after.known > 0.8 * after.tokens
    tools = reuse["changed tools"]
    assert tools.path == "rewind" and tools.standing < 0.3 * tools.tokens < tools.known


def test_gemma3_takes_no_tools_and_its_newlines_are_no_boundaries(load: Load) -> None:
    worker = load("gemma3")
    reuse = {one.scenario: one for one in reuses(worker)}
    assert reuse["plain chat"].path == "hit"
    assert "must alternate" in (reuse["tool loop"].refused or "")
    assert worker.boundary_tokenizer is not None
    found = boundaries(worker.boundary_tokenizer, "<bos><start_of_turn>user\nx<end_of_turn>\n")
    assert found.in_use == ["<bos>", "<start_of_turn>", "<end_of_turn>"]
    assert "\n" in {unsafe.token for unsafe in found.unsafe}
    assert len(found.safe) + len(found.unsafe) == len(worker.tokenizer.get_added_vocab())


@pytest.mark.parametrize(("name", "orderly"), [("qwen3", 0.1), ("gemma3", 0.9), ("gptoss", 0.1)])
def test_its_own_random_conversations_agree(name: str, orderly: float, load: Load) -> None:
    worker = load(name)
    parity = compare(worker, 40, 1, worker.family.special, orderly=orderly)
    assert parity.different == 0, parity.differences
    assert parity.turns >= 40
    assert parity.known > parity.tokens / 5
