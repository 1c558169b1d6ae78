"""Options of a chat request that reach the prompt: with a resident history and without, as in vLLM."""

from collections.abc import Callable
from typing import Any

import pytest

from app.prefix.wire import PROTOCOL, Commit, PrefixChatRequest, Receipt, Reference
from app.vllm_plugin.references import PrefixMiss
from tests.parity.offline import MODEL, Offline, Prompt, Refused

HISTORY = [
    {"role": "user", "content": "hello there " * 20},
    {"role": "assistant", "content": "ok"},
    {"role": "user", "content": "bye"},
]


def ask(
    worker: Offline,
    messages: list[dict[str, Any]],
    options: dict[str, Any],
    after: Receipt | None = None,
    compare: Receipt | None = None,
) -> tuple[Prompt, Receipt] | Refused:
    reference = Reference(after.ref or "", after.hash, after.tokens, after.fingerprint) if after else None
    request = PrefixChatRequest(
        protocol=PROTOCOL,
        namespace="t",
        chat={"model": MODEL, "max_tokens": 1, **options},
        messages=messages,
        prefix=reference,
        commit=Commit(60),
        compare=compare and compare.ref,
    )
    return worker.runner.run(worker.turn(request))


def stock(worker: Offline, messages: list[dict[str, Any]], options: dict[str, Any]) -> Prompt | Refused:
    return worker.runner.run(worker.stock({"model": MODEL, "max_tokens": 1, **options}, messages, "t"))


@pytest.mark.parametrize("by_reference", [True, False])
@pytest.mark.parametrize(
    "options",
    [
        {"truncate_prompt_tokens": 20},
        {"truncate_prompt_tokens": 20, "truncation_side": "left"},
        {"truncate_prompt_tokens": 20, "truncation_side": "right"},
        {"echo": True, "add_generation_prompt": False},
        {"prompt_logprobs": 1},
        {"documents": [{"title": "a", "text": "b"}]},
        {"reasoning_effort": "low"},
        {"chat_template": "{{ messages[0].content }}"},
        {"mm_processor_kwargs": {"a": 1}},
        {"n": 2},
    ],
    ids=str,
)
def test_the_prompt_is_vllms_and_so_is_the_next_one(
    options: dict[str, Any], by_reference: bool, load: Callable[[str], Offline]
) -> None:
    worker = load("qwen3")
    worker.empty_store()
    first = ask(worker, HISTORY[:1], {})
    assert isinstance(first, tuple)
    second = ask(worker, HISTORY[1:], options, first[1]) if by_reference else ask(worker, HISTORY, options)
    expected = stock(worker, HISTORY, options)
    if isinstance(second, Refused):
        assert second == expected
        return
    prompt, receipt = second
    assert prompt == expected
    more = {"role": "user", "content": "more"}
    third = ask(worker, [more], {}, receipt)
    assert isinstance(third, tuple)
    assert third[0] == stock(worker, [*HISTORY, more], {})


@pytest.mark.parametrize("special", [{"add_special_tokens": True}, {"return_token_offsets": True}], ids=str)
def test_what_has_no_text_to_prove_needs_no_reference(
    special: dict[str, Any], load: Callable[[str], Offline]
) -> None:
    """A whole history whose beginning is resident is no miss, only because it was found; a reference is."""
    worker = load("qwen3")
    worker.empty_store()
    first = ask(worker, HISTORY[:1], {})
    assert isinstance(first, tuple)
    with pytest.raises(PrefixMiss) as caught:
        ask(worker, HISTORY[1:], special, first[1])
    assert caught.value.code == "not_continuable"
    whole = ask(worker, HISTORY, special)
    assert isinstance(whole, tuple)
    prompt, receipt = whole
    assert prompt == stock(worker, HISTORY, special)
    assert (receipt.path, receipt.reason, receipt.ref) == ("full", "not_continuable", None)


def test_the_order_of_keys_is_the_clients(load: Callable[[str], Offline]) -> None:
    """Mistral's and Granite's templates print calls as JSON: another order is another prompt."""
    worker = load("hostile_qwen3")
    worker.empty_store()
    call = {"type": "function", "id": "1", "function": {"name": "f", "arguments": '{"z": 1, "a": 2}'}}
    messages = [HISTORY[0], {"role": "assistant", "content": None, "tool_calls": [call]}]
    outcome = ask(worker, messages, {})
    assert isinstance(outcome, tuple)
    assert outcome[0] == stock(worker, messages, {})
