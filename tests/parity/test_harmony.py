"""gpt-oss: what reaches a prompt besides the messages, with a resident history and without, as in vLLM."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from vllm.entrypoints.openai.parser import harmony_utils

from app.prefix.wire import Receipt
from app.vllm_plugin.harmony import HarmonyEncoder
from app.vllm_plugin.references import PrefixMiss
from tests.parity.conversations import Conversation, Step
from tests.parity.offline import Offline, Prompt, Refused
from tests.parity.play import Difference, Tally, play
from tests.parity.test_options import ask, stock

ASK = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hello there " * 20}]
ANSWER = [{"role": "assistant", "content": "ok", "reasoning": "hm"}, {"role": "user", "content": "bye"}]


@pytest.fixture
def worker(load: Callable[[str], Offline]) -> Iterator[Offline]:
    worker = load("gptoss")
    worker.empty_store()
    # Every turn that reuses something is made again, in full.
    worker.service.canary.share = 1.0
    yield worker
    worker.service.canary.share = 0.0
    counts = worker.service.canary.stats()
    assert (counts["differences"], counts["failed"]) == (0, 0)


def goes_on(
    worker: Offline,
    history: list[dict[str, Any]],
    added: list[dict[str, Any]],
    after: Receipt | None,
    **options: Any,
) -> Receipt:
    """A turn by reference, if there is one, that is vLLM's."""
    outcome = ask(worker, added if after else [*history, *added], options, after)
    worker.runner.run(worker.service.canary.settled())
    assert isinstance(outcome, tuple), outcome
    assert outcome[0] == stock(worker, [*history, *added], options)
    return outcome[1]


def test_midnight(worker: Offline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_SYSTEM_START_DATE", "2026-01-01")
    first = goes_on(worker, [], ASK, None)
    monkeypatch.setenv("VLLM_SYSTEM_START_DATE", "2026-01-02")
    second = goes_on(worker, ASK, ANSWER, first)
    assert (second.path, second.reason) == ("rewind", "history_rewritten")
    assert second.reused_tokens > second.tokens / 3, "all but the date's message"
    third = goes_on(worker, [*ASK, *ANSWER], ANSWER, second)
    assert (third.path, third.reason) == ("hit", None)
    monkeypatch.setenv("VLLM_SYSTEM_START_DATE", "2026-01-01")
    again = goes_on(worker, [*ASK, *ANSWER], ANSWER, second)
    assert again.path == "rewind"
    assert again.ref not in (third.ref, None)


def test_effort_and_tools_rewind(worker: Offline) -> None:
    first = goes_on(worker, [], ASK, None)
    high = goes_on(worker, ASK, ANSWER, first, reasoning_effort="high")
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    tools = goes_on(worker, [*ASK, *ANSWER], ANSWER, high, tools=[tool], tool_choice="none")
    assert [receipt.path for receipt in (high, tools)] == ["rewind", "rewind"]
    assert len({receipt.fingerprint for receipt in (first, high, tools)}) == 3
    assert goes_on(worker, [], [*ASK, *ANSWER], None, reasoning_effort="high").reason == "found_by_content"


def test_parts_are_what_validation_left_of_them(worker: Offline) -> None:
    """vLLM reads a tool's parts where they are a list, and not where they are an iterator. They are one in a
    message that only OpenAI's own definition of it fits."""
    parts = [{"type": "text", "text": "forty-two"}]
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    called = [*ASK, {"role": "assistant", "content": None, "tool_calls": [call]}]
    results = [{"role": "tool", "tool_call_id": "c", "content": parts, **more} for more in ({}, {"task": 3})]
    lost, read = (goes_on(worker, called, [result], None).tokens for result in reversed(results))
    assert lost < read
    first = goes_on(worker, called, results, None)
    assert goes_on(worker, [*called, *results], ANSWER, first).path == "hit"


def test_ids_of_the_clients_own_are_not_kept(worker: Offline) -> None:
    """vLLM takes the prompt's ids themselves, from where another process made them."""
    given: dict[str, Any] = {"kv_transfer_params": {"prompt_token_ids": [200006, 1428]}}
    first = goes_on(worker, [], ASK, None)
    with pytest.raises(PrefixMiss) as caught:
        ask(worker, ANSWER, {"kv_transfer_params": {"prompt_token_ids": [200006, 1428]}}, first)
    assert caught.value.code == "not_continuable"
    outcome = ask(worker, [*ASK, *ANSWER], given)
    assert isinstance(outcome, tuple)
    prompt, receipt = outcome
    assert prompt.ids == (200006, 1428)
    assert (receipt.path, receipt.reason, receipt.ref) == ("full", "not_continuable", None)


@pytest.mark.parametrize(
    ("options", "name"), [({"reasoning_effort": "none"}, "f"), ({}, "<|start|>")], ids=["effort", "name"]
)
def test_what_vllm_refuses_is_refused_alike(worker: Offline, options: dict[str, Any], name: str) -> None:
    first = goes_on(worker, [], ASK, None)
    call = {"id": "c", "type": "function", "function": {"name": name, "arguments": "{}"}}
    added = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    refused = ask(worker, added, options, first)
    assert isinstance(refused, Refused)
    assert refused == stock(worker, [*ASK, *added], options)
    assert goes_on(worker, ASK, ANSWER, first).path == "hit", "the reference is as it was"


def test_what_a_text_needs_is_no_concern_here(worker: Offline) -> None:
    """vLLM ignores these with harmony: there is no template, and nothing is cut."""
    first = goes_on(worker, [], ASK, None)
    options = {"truncate_prompt_tokens": 20, "add_special_tokens": True, "chat_template": "x"}
    assert goes_on(worker, ASK, ANSWER, first, **options).path == "hit"


def keeping(messages: list[Any]) -> list[int]:
    """Renders old analysis too."""
    config = harmony_utils.RenderConversationConfig(auto_drop_analysis=False)
    conversation = harmony_utils.Conversation.from_messages(messages)
    encoding = harmony_utils.get_encoding()
    return encoding.render_conversation_for_completion(conversation, harmony_utils.Role.ASSISTANT, config)


def test_the_suite_finds_a_scheme_that_is_wrong(worker: Offline) -> None:
    steps = tuple(Step("continue", 0, (m,), None, 3600, False) for m in (*ASK, *ANSWER))
    conversation = Conversation(1 << 28, steps)
    play(worker, Tally(), conversation)
    sound = worker.service._tokenizer
    sample = harmony_utils.parse_chat_inputs_to_harmony_messages(ASK[1:])
    worker.service.canary.share = 0.0
    worker.service._tokenizer = HarmonyEncoder(keeping, list, sample, "")
    try:
        with pytest.raises(Difference, match="ids"):
            play(worker, Tally(), conversation)
    finally:
        worker.service._tokenizer = sound


def test_the_engine_gets_no_text(worker: Offline) -> None:
    outcome = ask(worker, ASK, {})
    assert isinstance(outcome, tuple)
    assert outcome[0] == Prompt(outcome[0].ids, "", {"type": "token", "cache_salt": "t"})
