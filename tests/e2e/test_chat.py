"""A chat through the OpenAI SDK on real vLLM and real Postgres: hits, parity, cost."""

import json
from typing import Any

import httpx
import numpy as np
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.responses import Response
from sqlalchemy import Engine, event

from app.prefix.hashing import ids_hash
from tests.e2e.service import wait_until
from tests.e2e.stack import Recorder, ask, chat, path, rendered_ids, running_requests, wait_until_idle

FOLLOW_UPS = ["What is my name?", "Name three rivers.", "Say goodbye."]


def as_messages(questions: list[str], answers: list[Response]) -> list[dict[str, Any]]:
    """The chat up to the last question, as a client without state would send it."""
    messages: list[dict[str, Any]] = []
    for question, answer in zip(questions, answers, strict=True):
        messages += [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer.output_text},
        ]
    return messages[:-1]


async def test_four_turns_by_reference_are_the_full_renders(
    client: OpenAI,
    recorder: Recorder,
    vllm_url: str,
    checkpoints: Any,
    opening: str,
    on_one_line: dict[str, Any],
) -> None:
    recorder.bodies.clear()
    questions = [opening, *FOLLOW_UPS]
    answers = chat(client, questions, extra_body=on_one_line)
    assert [path(a) for a in answers] == [("full", "new_conversation"), *[("hit", None)] * 3]

    sent = [json.loads(body) for body in recorder.sent("/prefix/v1/chat")]
    assert [len(body["messages"]) for body in sent] == [1, 2, 2, 2]
    overhead = [
        len(body)
        - len(json.dumps(json.loads(body)["messages"], separators=(",", ":"), ensure_ascii=False).encode())
        for body in recorder.sent("/prefix/v1/chat")
    ]
    assert overhead[3] <= overhead[1] + 1, "beyond the margin, only the token count's digits may grow"

    for n, answer in enumerate(answers, start=1):
        ids = rendered_ids(vllm_url, as_messages(questions[:n], answers[:n]))
        checkpoint = await checkpoints(answer.id)
        assert checkpoint.prefix_hash == ids_hash(np.array(ids, "<i4").data)
        assert checkpoint.token_count == len(ids) == answer.usage.input_tokens  # type: ignore[union-attr]

    in_full = chat(client, questions, extra_body={"caching": {"type": "disabled"}, **on_one_line})
    assert [path(a) for a in in_full] == [("full", "caching_disabled")] * 4
    assert [a.output_text for a in in_full] == [a.output_text for a in answers]


def test_tokens_are_counted_as_vllm_counts_them(client: OpenAI) -> None:
    long = "Remember this: " + " ".join(f"item {n} is {n * 7}." for n in range(60))
    first = ask(client, long)
    second = ask(client, "Which item came last?", first.id)
    caching: dict[str, Any] = second.caching  # type: ignore[attr-defined]
    assert caching["reused_tokens"] + caching["tokenized_tokens"] == second.usage.input_tokens  # type: ignore[union-attr]
    assert caching["tokenized_tokens"] < 60
    # vLLM's CPU blocks hold 128 tokens: all full blocks of the first turn's prompt come from its cache.
    cached = second.usage.input_tokens_details.cached_tokens  # type: ignore[union-attr]
    assert cached >= first.usage.input_tokens // 128 * 128 > 0  # type: ignore[union-attr]


def test_a_branch_hits_on_both_sides(client: OpenAI, opening: str) -> None:
    root = ask(client, opening)
    left, right = ask(client, "Say yes.", root.id), ask(client, "Say no.", root.id)
    assert path(left) == path(right) == ("hit", None)
    assert path(ask(client, "Again.", left.id)) == ("hit", None)
    regenerated = ask(client, "Say yes.", root.id)
    assert (path(regenerated), regenerated.output_text) == (("hit", None), left.output_text)


def test_tool_calls_and_their_outputs_continue(client: OpenAI, vllm_url: str) -> None:
    tool = {
        "type": "function",
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
    fields: dict[str, Any] = {"tools": [tool], "max_output_tokens": 60}
    first = ask(
        client, "Weather in Paris?", tool_choice={"type": "function", "name": "get_weather"}, **fields
    )
    (call,) = first.output
    assert call.type == "function_call"
    assert "city" in json.loads(call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = ask(client, [result], first.id, tool_choice="none", **fields)
    assert path(second) == ("hit", None)
    stateless = [{"role": "user", "content": "Weather in Paris?"}, call.to_dict(), result]
    again = ask(client, stateless, tool_choice="none", **fields)
    assert again.output_text == second.output_text


def test_without_a_stream_the_answer_is_the_same_object(client: OpenAI, opening: str) -> None:
    raw = client.responses.with_raw_response.create(input=opening, temperature=0, max_output_tokens=24)
    assert raw.headers["x-marginalia-path"] == "full"
    assert raw.headers["x-marginalia-reason"] == "new_conversation"
    response = raw.parse()
    assert response.output_text == ask(client, opening).output_text
    assert client.responses.retrieve(response.id) == response


def test_statements_do_not_grow_with_the_history(client: OpenAI) -> None:
    statements: list[str] = []
    after_answers: list[tuple[str, str]] = []
    ids: list[str] = []

    def own_seeds() -> list[str]:
        """An earlier test's may be late."""
        return [statement for statement, given in after_answers if any(i in given for i in ids)]

    def count(*args: Any) -> None:
        # Whichever turn it falls into: the token ids are written beside the next one, and every few seconds
        # somebody looks after what was left in the background.
        if not any(of_jobs in args[2] for of_jobs in ("background_jobs", "pg_try_advisory")):
            if "seeds" in args[2]:
                after_answers.append((args[2], str(args[3])))
            else:
                statements.append(args[2])

    event.listen(Engine, "before_cursor_execute", count)
    try:
        per_turn: list[int] = []
        for n in range(8):
            before = len(statements)
            ids.append(ask(client, f"Say {n}.", ids[-1] if ids else None, max_output_tokens=2).id)
            per_turn.append(len(statements) - before)
        assert wait_until(lambda: len(own_seeds()) >= 8, within_s=60)
    finally:
        event.remove(Engine, "before_cursor_execute", count)
    assert len(set(per_turn[1:])) == 1
    assert per_turn[1] <= 5
    assert [statement.split()[0] for statement in own_seeds()] == ["INSERT"] * 8


def test_deleted_responses_are_gone_and_their_children_go_on(client: OpenAI, opening: str) -> None:
    first = ask(client, opening)
    second = ask(client, FOLLOW_UPS[0], first.id)
    client.responses.delete(first.id)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(BadRequestError) as caught:
        ask(client, "And?", first.id)
    assert caught.value.code == "previous_response_not_found"
    assert path(ask(client, "And?", second.id)) == ("hit", None)


def test_a_client_that_hangs_up_aborts_the_generation(client: OpenAI, vllm_url: str, opening: str) -> None:
    first = ask(client, opening)
    stream = client.responses.create(
        input="Count to a thousand.",
        previous_response_id=first.id,
        stream=True,
        max_output_tokens=4000,
        extra_body={"ignore_eos": True},
    )
    started = next(iter(stream))
    for _ in range(4):
        next(iter(stream))
    assert running_requests(vllm_url) >= 1
    stream.close()
    wait_until_idle(vllm_url)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(started.response.id)  # type: ignore[union-attr]
    assert path(ask(client, "Go on.", first.id)) == ("hit", None)


def test_a_client_that_hangs_up_without_a_stream_aborts_too(service_url: str, vllm_url: str) -> None:
    body = {"input": "Write a long story about a river.", "temperature": 0, "max_output_tokens": 4000}
    body["ignore_eos"] = True
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{service_url}/v1/responses", json=body, timeout=httpx.Timeout(30, read=1))
    wait_until_idle(vllm_url)


def test_a_client_without_state_is_a_hit_too(client: OpenAI, opening: str) -> None:
    first = ask(client, opening)
    second = ask(client, FOLLOW_UPS[0], first.id)
    history: list[Any] = [
        {"role": "user", "content": opening},
        *(item.to_dict() for item in first.output),
        {"role": "user", "content": FOLLOW_UPS[0]},
    ]
    stateless = ask(client, history)
    assert path(stateless) == ("hit", "found_by_content")
    assert stateless.output_text == second.output_text


def test_changed_instructions_and_tools_have_their_reason(client: OpenAI, opening: str) -> None:
    first = ask(client, opening, instructions="Be brief.")
    assert path(ask(client, "Hi.", first.id, instructions="Be brief.")) == ("hit", None)
    assert path(ask(client, "Hi.", first.id, instructions="Be long.")) == ("full", "instructions_changed")
    assert path(ask(client, "Hi.", first.id)) == ("full", "instructions_changed")


def test_errors_are_openais(client: OpenAI, service_url: str) -> None:
    def error(**body: Any) -> tuple[int, str | None, str | None]:
        answer = httpx.post(f"{service_url}/v1/responses", json=body, timeout=60)
        found = answer.json()["error"]
        return answer.status_code, found["code"], found["param"]

    assert error(input="x", model="nope") == (404, "model_not_found", "model")
    assert error(input="x", previous_response_id="resp_0") == (
        400,
        "previous_response_not_found",
        "previous_response_id",
    )
    assert error(input="word " * 9000) == (400, "context_length_exceeded", "input")
    assert error(input="x", max_output_tokens=10**6) == (400, "invalid_value", "max_output_tokens")
    answer = httpx.get(f"{service_url}/v1/responses/resp_0", timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found")
    assert httpx.get(f"{service_url}/nowhere", timeout=60).json()["error"]["type"] == "invalid_request_error"


def test_ready_and_models(client: OpenAI, service_url: str) -> None:
    assert httpx.get(f"{service_url}/health", timeout=60).json() == {"status": "ok"}
    ready = httpx.get(f"{service_url}/ready", timeout=60).json()
    assert ready == {"status": "ok", "postgres": "ok", "engine": "ok"}
    assert [model.id for model in client.models.list()] == ["SmolLM2-135M-Instruct"]
