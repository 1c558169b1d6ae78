"""Reasoning through a real vLLM with a reasoning parser: items, events, replay, what a client carries.

The model is tiny and random: each word of its vocabulary is about as likely. A bias makes it end its
reasoning soon, and a seed makes it say the same again.
"""

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from openai import BadRequestError, OpenAI
from openai.types.responses import Response

from app.local.vllm import LocalVllm
from bench import tiny
from tests.e2e.stack import SECRET, ask, path, rendered_ids, running
from tests.e2e.test_resumed import Streamed, stream
from tests.parity.families import FAMILIES

__all__ = ["stream"]

END_OF_REASONING = "151668"
BIAS = 10.0


@pytest.fixture(scope="module")
def vllm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    scratch = tmp_path_factory.mktemp("reasoning")
    model = tiny.make(FAMILIES["qwen3"].directory(), scratch / "model")
    parsers = ["--reasoning-parser", "qwen3", "--enable-auto-tool-choice", "--tool-call-parser", "hermes"]
    arguments = [*tiny.LOAD_ARGS, *parsers]
    server = LocalVllm(str(model), "thinker", log_dir=scratch, secret=SECRET, extra_args=arguments)
    with running(server, timeout_s=400):
        yield server.url


@pytest.fixture
def client(vllm_url: str, client_for: Callable[..., OpenAI]) -> OpenAI:
    return client_for(vllm_url)


def says(seed: int) -> dict[str, Any]:
    return {"temperature": 1, "extra_body": {"seed": seed, "logit_bias": {END_OF_REASONING: BIAS}}}


@pytest.fixture
def seed(client: OpenAI) -> int:
    """One with which it thinks and then answers."""
    for seed in range(50):
        kinds = [item.type for item in ask(client, "Why?", **says(seed)).output]
        if kinds == ["reasoning", "message"]:
            return seed
    raise AssertionError("it never both thinks and answers")


def reasoning(response: Response) -> Any:
    (item,) = (item for item in response.output if item.type == "reasoning")
    return item


def test_reasoning_comes_before_the_answer_and_is_counted(client: OpenAI, seed: int) -> None:
    answer = ask(client, "Why?", **says(seed))
    assert [item.type for item in answer.output] == ["reasoning", "message"]
    item = reasoning(answer)
    assert item.summary == []
    assert [part.type for part in item.content] == ["reasoning_text"]
    assert answer.usage is not None
    assert 0 < answer.usage.output_tokens_details.reasoning_tokens < answer.usage.output_tokens


def test_a_summary_holds_the_reasoning_itself(client: OpenAI, seed: int) -> None:
    whole = reasoning(ask(client, "Why?", **says(seed))).content[0].text
    events = list(
        client.responses.create(
            input="Why?",
            stream=True,
            reasoning={"summary": "auto"},
            max_output_tokens=24,
            **says(seed),
        )
    )
    written = "".join(e.delta for e in events if e.type == "response.reasoning_summary_text.delta")
    assert written == whole
    kinds = [e.type.removeprefix("response.") for e in events if "summary" in e.type]
    assert kinds[0] == "reasoning_summary_part.added"
    assert kinds[-2:] == ["reasoning_summary_text.done", "reasoning_summary_part.done"]
    final = events[-1].response  # type: ignore[union-attr]
    item = reasoning(final)
    assert ([part.text for part in item.summary], item.content) == ([whole], None)
    assert final.reasoning.summary == "auto"


def test_effort_none_is_told_to_the_template(client: OpenAI, vllm_url: str) -> None:
    silent = ask(client, "Why?", reasoning={"effort": "none"})
    messages = [{"role": "user", "content": "Why?"}]
    no_thinking = rendered_ids(vllm_url, messages, chat_template_kwargs={"enable_thinking": False})
    assert silent.usage is not None
    assert silent.usage.input_tokens == len(no_thinking) != len(rendered_ids(vllm_url, messages))
    counted = client.responses.input_tokens.count(input="Why?", reasoning={"effort": "none"})
    assert counted.input_tokens == len(no_thinking)


def test_what_a_client_carries_is_what_the_server_would_have_kept(client: OpenAI, seed: int) -> None:
    """With `store: false` and encrypted reasoning, the next prompt is that of a stored conversation."""
    include: Any = ["reasoning.encrypted_content"]
    carried = ask(client, "Why?", **says(seed), store=False, include=include)
    sealed = reasoning(carried).encrypted_content
    kept = ask(client, "Why?", **says(seed))
    assert reasoning(kept).encrypted_content is None
    assert reasoning(kept).content[0].text not in sealed

    items = [item.to_dict() for item in carried.output]
    for item in items:
        item.pop("content", None) if item["type"] == "reasoning" else None
    by_hand = client.responses.create(
        input=[{"role": "user", "content": "Why?"}, *items, {"role": "user", "content": "So?"}],  # type: ignore[list-item]
        store=False,
        max_output_tokens=1,
    )
    by_server = client.responses.create(input="So?", previous_response_id=kept.id, max_output_tokens=1)
    assert by_hand.usage is not None and by_server.usage is not None
    assert by_hand.usage.input_tokens == by_server.usage.input_tokens
    assert path(by_server)[0] in ("hit", "rewind")

    again = client.responses.retrieve(kept.id, include=include)
    assert reasoning(again).encrypted_content is not None
    assert reasoning(again).content[0].text == reasoning(kept).content[0].text


def test_forged_reasoning_is_refused(client: OpenAI, seed: int) -> None:
    sealed = reasoning(
        ask(client, "Why?", **says(seed), include=["reasoning.encrypted_content"])
    ).encrypted_content
    forged: Any = {"type": "reasoning", "summary": [], "encrypted_content": sealed[:-4] + "AAAA"}
    with pytest.raises(BadRequestError) as caught:
        client.responses.create(input=[forged, {"role": "user", "content": "So?"}])
    assert (caught.value.code, caught.value.param) == (
        "invalid_encrypted_content",
        "input[0].encrypted_content",
    )


def test_diagnostics_name_what_changed(client: OpenAI) -> None:
    tool: Any = {"type": "function", "name": "f", "parameters": {"type": "object"}}
    first = ask(client, "Why?", tools=[tool], tool_choice="none")
    asked: Any = {"prompt_cache_options": {"comparison_response_id": first.id}}
    other = ask(client, "Why?", tools=[{**tool, "name": "g"}], tool_choice="none", **asked)
    miss: Any = other.prompt_cache_diagnostics
    assert (miss.type, miss.reason) == ("cache_miss", "tools_changed")
    assert first.usage is not None
    assert 0 < miss.cache_missed_tokens < miss.comparison_reusable_tokens <= first.usage.input_tokens


def test_an_answer_cut_while_it_thinks_is_incomplete_and_goes_on(client: OpenAI) -> None:
    cut = ask(client, "Why?", max_output_tokens=3)
    assert (cut.status, cut.output[0].type, cut.output[0].status) == (  # type: ignore[union-attr]
        "incomplete",
        "reasoning",
        "incomplete",
    )
    assert len(cut.output) == 1
    assert path(ask(client, "And?", cut.id))[0] in ("hit", "rewind")


THOUGHT = "<think>\nIt asks.\n</think>\n\n"
CALLING = f'{THOUGHT}Let me see.\n<tool_call>\n{{"name": "look", "arguments": {{"at": "the sea'


@pytest.mark.parametrize(
    ("said", "reasoning", "text", "calls"),
    [
        ("<think>\nIt asks", "It asks...", "", []),
        (f"{THOUGHT}Let me", "It asks.", "Let me...", []),
        (CALLING, "It asks.", "Let me see.", [["look", '{"at": "the sea...']]),
        (f'{CALLING}"}}}}\n</tool_call>', "It asks.", "Let me see.", [["look", '{"at": "the sea"}']]),
    ],
)
def test_an_answer_goes_on_in_the_middle_of_its_parts(
    said: str,
    reasoning: str,
    text: str,
    calls: list[list[str]],
    stream: Callable[..., Streamed],
    vllm_url: str,
) -> None:
    """The parsers see what was said before, too."""

    def ids(written: str) -> list[int]:
        body = {"prompt": written, "add_special_tokens": False}
        found: list[int] = httpx.post(f"{vllm_url}/tokenize", json=body, timeout=60).json()["tokens"]
        return found

    before, (dot,) = ids(said), ids(".")
    look = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}
    dots = {"allowed_token_ids": [dot], "max_completion_tokens": len(before) + 3}
    tools = [{"type": "function", "function": look}]
    answer = stream([{"role": "user", "content": "Why?"}], before, model="thinker", tools=tools, **dots)
    assert answer.sampled == [*before, dot, dot, dot]
    assert answer.usage["completion_tokens"] == len(before) + 3
    assert (answer.reasoning.strip(), answer.text.strip(), answer.calls) == (reasoning, text, calls)
