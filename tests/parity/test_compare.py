"""What two prompts have in common: the plugin's counts against vLLM's own full renders of both."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.prefix.wire import Common, Receipt
from tests.parity.offline import Offline, Prompt
from tests.parity.play import message_ends, shared
from tests.parity.test_options import HISTORY, ask, stock

FAMILIES = ["qwen3", "llama3_1", "deepseek_v3", "gemma3", "smollm2", "gptoss"]
EDITED = [HISTORY[0], {"role": "assistant", "content": "ok then"}, HISTORY[2]]
MARGIN = [{"role": "assistant", "content": "I see"}, {"role": "user", "content": "and now?"}]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
STEP = [
    {"role": "assistant", "content": "", "reasoning": "think " * 40, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c1", "content": "forty-two"},
]


@pytest.fixture
def worker(load: Callable[[str], Offline], request: pytest.FixtureRequest) -> Iterator[Offline]:
    worker = load(getattr(request, "param", "qwen3"))
    worker.empty_store()
    yield worker
    worker.answer_with([1])


def turn(worker: Offline, messages: list[Any], *rest: Receipt, **options: Any) -> Receipt:
    outcome = ask(worker, messages, options, *rest)
    assert isinstance(outcome, tuple), outcome
    return outcome[1]


def compared(worker: Offline, messages: list[Any], other: Receipt, **options: Any) -> Receipt:
    """A turn with its whole history, compared with another."""
    outcome = ask(worker, messages, options, compare=other)
    assert isinstance(outcome, tuple), outcome
    return outcome[1]


def ids_of(worker: Offline, messages: list[Any], **options: Any) -> tuple[int, ...]:
    prompt = stock(worker, messages, options)
    assert isinstance(prompt, Prompt), prompt
    return prompt.ids


def reusable(worker: Offline, messages: list[Any], **options: Any) -> int:
    """How many ids come before the generation prompt, which is left out of a second render."""
    ids = ids_of(worker, messages, **options)
    if worker.family.harmony:
        return message_ends(ids)[-1]
    return shared(ids, ids_of(worker, messages, **options, add_generation_prompt=False))


@pytest.mark.parametrize("worker", FAMILIES, indirect=True)
def test_counts_are_those_of_two_full_renders(worker: Offline) -> None:
    first = turn(worker, HISTORY)
    for messages in (HISTORY, HISTORY[:1], EDITED, [*HISTORY, *MARGIN], [*EDITED, *MARGIN], MARGIN[1:]):
        common = compared(worker, messages, first).common
        tokens = shared(ids_of(worker, messages), ids_of(worker, HISTORY))
        assert common == Common(tokens, reusable(worker, HISTORY)), messages
    parted = compared(worker, EDITED, first).common
    assert parted
    assert 40 < parted.tokens < parted.reusable, "it ends in the middle"


@pytest.mark.parametrize("worker", FAMILIES, indirect=True)
def test_another_last_question_is_no_hit(worker: Offline) -> None:
    """Also where a message has no end of its own, as a user's in DeepSeek's template."""
    first = turn(worker, HISTORY)
    common = compared(worker, [*HISTORY[:2], {"role": "user", "content": "hm"}], first).common
    assert common
    assert 0 < common.tokens < common.reusable


@pytest.mark.parametrize("worker", FAMILIES, indirect=True)
def test_a_next_turn_by_reference_has_all_of_its_parents_messages(worker: Offline) -> None:
    first = turn(worker, HISTORY)
    second = turn(worker, MARGIN, first, first)
    assert (second.path, second.common is not None) == ("hit", True)
    assert second.common
    assert second.common.tokens >= second.common.reusable == reusable(worker, HISTORY)


def test_reasoning_that_the_template_dropped_is_a_rewind_and_no_hit(worker: Offline) -> None:
    told = [{"role": "user", "content": "What is it?"}, *STEP]
    options: dict[str, Any] = {"tools": [TOOL], "tool_choice": "none"}
    first = turn(worker, told, **options)
    second = turn(worker, MARGIN, first, first, **options)
    whole = [*told, *MARGIN]
    assert second.path == "rewind"
    tokens = shared(ids_of(worker, whole, **options), ids_of(worker, told, **options))
    assert second.common == Common(tokens, reusable(worker, told, **options))
    assert tokens < second.common.reusable - 40, "the thoughts, and all after them"


def test_other_tools_part_the_prompts_early(worker: Offline) -> None:
    first = turn(worker, HISTORY)
    options: dict[str, Any] = {"tools": [TOOL], "tool_choice": "none"}
    common = compared(worker, HISTORY, first, **options).common
    assert common == Common(
        shared(ids_of(worker, HISTORY, **options), ids_of(worker, HISTORY)), reusable(worker, HISTORY)
    )


def test_sampled_ids_count_as_they_are(worker: Offline) -> None:
    """The model spelled its answer in other tokens: the text is the same, the engine's cache is not."""
    spelled = [i for letter in "forty-two" for i in worker.encode(letter)]
    answer = [{"role": "assistant", "content": "forty-two"}, MARGIN[1]]
    worker.answer_with(spelled)
    first = turn(worker, HISTORY)
    worker.answer_with([1])
    second = turn(worker, answer, first)
    assert second.sampled_reused == len(spelled)
    worker.service.drop(second.ref or "")
    again = turn(worker, answer, first)
    full = ask(worker, [*HISTORY, *answer], {}, compare=again)
    assert isinstance(full, tuple)
    assert full[1].common
    assert full[1].common.tokens == len(full[0].ids)
    canonical = ids_of(worker, [*HISTORY, *answer])
    assert shared(full[0].ids, canonical) < full[1].common.reusable, "not vLLM's own ids"


def test_a_prompt_that_vllm_tokenized_itself_is_compared_with_none(worker: Offline) -> None:
    first = turn(worker, HISTORY)
    assert compared(worker, HISTORY, first, add_special_tokens=True).common is None
