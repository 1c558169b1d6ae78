"""Answers that go on after their own tokens, on a real vLLM: the plugin's, and those in the background."""

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from openai import OpenAI

from app.local.model import DEFAULT_MODEL
from app.prefix.wire import PROTOCOL, SAMPLED_EVENT, SECRET_HEADER
from app.store.database import Database
from tests.e2e.stack import SECRET, serving
from tests.e2e.test_background import (
    Breaking,
    assert_whole,
    own,
    read,
    read_on,
    spawn,
    start,
    turns_of,
    url,
)
from tests.e2e.test_plugin import Call, call, reference, user
from tests.e2e.test_sampled import letters

__all__ = ["call", "letters", "own", "spawn", "start", "url"]

MOST = 24
"""Tokens of an answer."""


@dataclass
class Streamed:
    """calls: of tools, name and arguments. sampled: the ids that were told."""

    text: str
    reasoning: str
    calls: list[list[str]]
    sampled: list[int]
    reason: str
    usage: dict[str, int]
    receipt: dict[str, Any]


@pytest.fixture
def stream(vllm_url: str) -> Callable[..., Streamed]:
    def streamed(messages: list[Any], said: list[int] | None, **chat: Any) -> Streamed:
        chat = {"model": DEFAULT_MODEL, "max_completion_tokens": MOST, **chat}
        body = {
            "protocol": PROTOCOL,
            "namespace": "n",
            "chat": {**chat, "stream": True, "stream_options": {"include_usage": True}},
            "messages": messages,
            "commit": {"ttl_s": 60},
            "said": said,
        }
        at, headers = f"{vllm_url}/prefix/v1/chat", {SECRET_HEADER: SECRET}
        answer = httpx.post(at, json=body, headers=headers, timeout=120)
        assert answer.status_code == 200, answer.text
        made = Streamed("", "", [], [], "", {}, {})
        for event in answer.text.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in event.splitlines())
            data = fields.get("data", "[DONE]")
            if fields.get("event") == SAMPLED_EVENT:
                made.sampled += json.loads(data)
            elif fields.get("event") == "prefix":
                made.receipt = json.loads(data)
            elif data != "[DONE]":
                chunk = json.loads(data)
                made.usage = chunk.get("usage") or made.usage
                for choice in chunk["choices"]:
                    delta = choice["delta"]
                    made.text += delta.get("content") or ""
                    made.reasoning += delta.get("reasoning") or ""
                    for call in delta.get("tool_calls") or ():
                        if call["function"].get("name"):
                            made.calls.append([call["function"]["name"], ""])
                        made.calls[-1][1] += call["function"].get("arguments") or ""
                    made.reason = choice["finish_reason"] or made.reason
        return made

    return streamed


def test_an_answer_goes_on_after_its_own_tokens(
    stream: Callable[..., Streamed], call: Call, letters: list[int]
) -> None:
    asked, chat = user("Tell me about rivers"), {"temperature": 2, "allowed_token_ids": letters}
    whole = stream(asked, [], **chat)
    assert (len(whole.sampled), len(whole.text), whole.reason) == (MOST, MOST, "length")
    for count in (1, MOST // 2, MOST - 1, MOST):
        again = stream(asked, whole.sampled[:count], **chat)
        assert again.text[:count] == whole.text[:count]
        assert again.sampled[:count] == whole.sampled[:count]
        assert (len(again.sampled), len(again.text), again.reason) == (MOST, MOST, "length")
        assert again.usage == whole.usage
        # The prompt is the same one, and the next turn goes on from all that was said.
        assert again.receipt["hash"] == whole.receipt["hash"]
        margin = [{"role": "assistant", "content": again.text}, *user("And lakes?")]
        receipt = call("POST", "/chat", messages=margin, prefix=reference(again.receipt)).json()["prefix"]
        assert (receipt["path"], receipt["sampled_reused"]) == ("hit", MOST)
    assert again.text == whole.text


def test_what_was_said_need_not_end_with_a_character(stream: Callable[..., Streamed], vllm_url: str) -> None:
    body = {"prompt": "🌊", "add_special_tokens": False}
    ids = httpx.post(f"{vllm_url}/tokenize", json=body, timeout=60).json()["tokens"]
    assert len(ids) > 1
    chat = {"allowed_token_ids": ids[-1:], "max_completion_tokens": len(ids)}
    assert stream(user("The sea?"), ids[:-1], **chat).text == "🌊"


@pytest.mark.parametrize("options", [{"seed": 1}, {"stop": ["?"]}, {"logprobs": True}, {"min_tokens": 1}])
def test_an_answer_that_cannot_go_on_so_begins_anew(
    options: dict[str, Any], stream: Callable[..., Streamed], letters: list[int]
) -> None:
    answer = stream(
        user("Tell me about rivers"), letters[:3], temperature=1, allowed_token_ids=letters[3:6], **options
    )
    assert (len(answer.text), answer.sampled) == (MOST, [])
    assert set(answer.text) <= set("def")


def test_nobody_is_told_who_did_not_ask(stream: Callable[..., Streamed]) -> None:
    assert stream(user("Tell me about rivers"), None).sampled == []


# In the background


def at_random(letters: list[int]) -> dict[str, Any]:
    """An answer that no second attempt would say."""
    return {
        "input": "Go on.",
        "background": True,
        "temperature": 2,
        "stream": True,
        "extra_body": {"allowed_token_ids": letters},
    }


def test_vllm_that_breaks_off_goes_on(
    start: Callable[..., OpenAI], vllm_url: str, letters: list[int]
) -> None:
    proxy = Breaking(vllm_url, answers=2, after_bytes=12_000)
    with serving(proxy.app()) as worker:
        client = start(worker=worker)
        events = read(client.responses.create(**at_random(letters), max_output_tokens=150))
        response = client.responses.retrieve(events[0].response.id)
        after = client.responses.create(
            input="And?", previous_response_id=response.id, max_output_tokens=8, temperature=0
        )
    assert (response.status, response.usage.output_tokens, proxy.streams) == ("incomplete", 150, 4)
    assert_whole(events, response)
    assert (after.caching["path"], after.caching["sampled_reused"]) == ("hit", 150)


async def test_a_service_killed_in_the_middle_of_a_job(
    spawn: Callable[..., Any], own: Database, vllm_url: str, letters: list[int]
) -> None:
    service, client = spawn(worker=vllm_url)
    with client.responses.create(**at_random(letters), max_output_tokens=200) as stream:
        events = read(stream, until=50)
        response_id = events[0].response.id
        service.end(signal.SIGKILL)
    _, other = spawn(worker=vllm_url)
    events = read_on(other, response_id, events)
    response = other.responses.retrieve(response_id)
    assert (response.status, response.usage.output_tokens) == ("incomplete", 200)
    assert_whole(events, response)
    assert await turns_of(own) == [(response_id, 1)]


def test_what_cannot_go_on_and_says_something_else_fails(
    start: Callable[..., OpenAI], vllm_url: str, letters: list[int]
) -> None:
    """What may have been read is not taken back."""
    asked = at_random(letters)
    asked["extra_body"] |= {"presence_penalty": 0.01}
    with serving(Breaking(vllm_url, answers=1, after_bytes=12_000).app()) as worker:
        client = start(worker=worker)
        events = read(client.responses.create(**asked, max_output_tokens=150))
        response = client.responses.retrieve(events[0].response.id)
    assert (response.status, events[-1].type, response.output) == ("failed", "response.failed", [])
    assert "could not be repeated" in response.error.message
