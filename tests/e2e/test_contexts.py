"""Contexts on real vLLM and real Postgres: the first turn of a conversation finds its prefix made ready."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.responses import Response
from sqlalchemy import text

from app.conversation.records import Checkpoint
from app.store.database import Database
from tests import contract
from tests.e2e.stack import SECRET, Recorder, ask, path, rendered_ids, unique, wait_until_idle

RULES = " ".join(f"Rule {n}: be {n} times as kind." for n in range(20))
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
Json = dict[str, Any]


def instructions() -> str:
    """Of the test's own, so that no other has put them into vLLM's cache."""
    return f"You are {unique()}. {RULES}"


def made(client: OpenAI, **fields: Any) -> Json:
    context: Json = client.post("/contexts", cast_to=object, body=fields)  # type: ignore[assignment]
    return context


def read(client: OpenAI, place: str, **query: Any) -> Any:
    return client.get(place, cast_to=object, options={"params": query})


def deleted(client: OpenAI, context_id: str) -> Any:
    return client.delete(f"/contexts/{context_id}", cast_to=object)


def forget(vllm_url: str, prefix: Checkpoint) -> None:
    """As vLLM does at its end."""
    secret = {"x-marginalia-secret": SECRET}
    httpx.delete(f"{vllm_url}/prefix/v1/{prefix.ref}", headers=secret, timeout=60).raise_for_status()


def begun(client: OpenAI, question: Any, previous: str | None = None, **fields: Any) -> Response:
    """A turn whose answer's length does not matter."""
    return ask(client, question, previous, **{"max_output_tokens": 4, **fields})


def within(context: Json, *, ttl: int | None = None) -> Json:
    """Headers of a turn that starts from it."""
    headers = {"x-session-id": context["id"]}
    return {"extra_headers": {**headers, "x-session-ttl": str(ttl)} if ttl else headers}


def cached(response: Response) -> int:
    assert response.usage is not None
    return response.usage.input_tokens_details.cached_tokens


def test_the_first_turns_of_conversations_find_its_prefix(client: OpenAI, vllm_url: str) -> None:
    said = instructions()
    context = made(client, instructions=said, input="My name is Ada.", name="ada", metadata={"a": "b"})
    assert (context["object"], context["status"], context["ttl"]) == ("context", "ready", 3600)
    assert (context["name"], context["metadata"], context["instructions"]) == ("ada", {"a": "b"}, said)
    messages = [{"role": "system", "content": said}, {"role": "user", "content": "My name is Ada."}]
    assert context["token_count"] == len(rendered_ids(vllm_url, messages))
    wait_until_idle(vllm_url)
    for question in ("What is my name?", "Say a word."):
        first = begun(client, question, max_output_tokens=16, **within(context))
        assert path(first) == ("hit", None)
        # On a CPU vLLM caches blocks of 128 tokens.
        assert cached(first) >= context["token_count"] // 128 * 128 > 0
        assert first.instructions == said
        assert first.previous_response_id == context["response_id"]
        whole = [{"role": "user", "content": "My name is Ada."}, {"role": "user", "content": question}]
        asked = [*messages, whole[1]]
        assert first.usage is not None
        assert first.usage.input_tokens == len(rendered_ids(vllm_url, asked))
        in_full = begun(client, whole, max_output_tokens=16, instructions=said, store=False)
        assert in_full.output_text == first.output_text
        assert in_full.usage is not None
        assert in_full.usage.input_tokens == first.usage.input_tokens
    second = begun(client, "And now?", first.id, **within(context))
    assert (path(second), second.instructions) == (("hit", None), said)
    contract.check_response(read(client, f"/responses/{second.id}"))


def test_the_ids_are_those_of_a_full_render(client: OpenAI, recorder: Recorder, vllm_url: str) -> None:
    """What the service sent names the prefix and adds the margin: rendered, the ids of the conversation."""
    said = instructions()
    context = made(client, instructions=said, input=[{"role": "user", "content": "My name is Ada."}])
    begun(client, "What is my name?", **within(context))
    sent = recorder.sent("/prefix/v1/chat")[-1]
    rendered = httpx.post(
        f"{vllm_url}/prefix/v1/render",
        params={"ids": "true"},
        content=sent,
        headers={"x-marginalia-secret": SECRET, "content-type": "application/json"},
        timeout=60,
    ).json()
    messages = [
        {"role": "system", "content": said},
        {"role": "user", "content": "My name is Ada."},
        {"role": "user", "content": "What is my name?"},
    ]
    assert rendered["ids"] == rendered_ids(vllm_url, messages)
    assert said not in sent.decode()
    assert rendered["reused_tokens"] > 0


def test_what_a_turn_gives_itself_wins(client: OpenAI) -> None:
    said = instructions()
    context = made(
        client,
        instructions=said,
        tools=[WEATHER],
        text={"format": {"type": "json_object"}},
        reasoning={"effort": "low"},
        chat_template_kwargs={"a": 1},
    )
    chosen: Any = {"type": "function", "name": "weather"}
    first = begun(client, "Weather?", tool_choice=chosen, **within(context))
    assert (first.tools[0].type, first.tool_choice.to_dict()) == ("function", chosen)  # type: ignore[union-attr]
    assert first.text is not None
    assert first.reasoning is not None
    assert first.text.to_dict()["format"] == {"type": "json_object"}
    assert first.reasoning.effort == "low"
    assert path(first) == ("hit", None)
    other = begun(client, "Hello.", instructions="Be brief.", tools=[], **within(context))
    assert (other.instructions, other.tools) == ("Be brief.", [])
    assert path(other) == ("full", "instructions_changed")


def test_the_headers_of_a_stream_and_of_an_answer(client: OpenAI) -> None:
    context = made(client, instructions="Be kind.", ttl=60)
    for stream in (False, True):
        answer = client.responses.with_raw_response.create(
            input="Hello.", max_output_tokens=1, stream=stream, **within(context, ttl=600)
        )
        assert answer.headers["x-session-id"] == context["id"]
        assert 540 <= int(answer.headers["x-session-ttl"]) <= 600
        assert answer.headers["x-marginalia-path"] == "hit"
        answer.http_response.close()
    created = httpx.post(f"{client.base_url}contexts", json={"instructions": "x", "ttl": 7}, timeout=60)
    assert created.headers["x-session-ttl"] == "7"
    assert created.headers["x-session-id"].startswith("ctx_")


async def test_a_turn_with_a_ttl_lets_it_live_longer(
    client: OpenAI, checkpoints: Callable[[str], Awaitable[Checkpoint | None]]
) -> None:
    context = made(client, instructions=instructions(), ttl=60)
    begun(client, "Hello.", **within(context))
    assert read(client, f"/contexts/{context['id']}")["expires_at"] == context["expires_at"]
    answer = begun(client, "Hello.", **within(context, ttl=3600))
    renewed = read(client, f"/contexts/{context['id']}")
    assert (renewed["ttl"], renewed["created_at"]) == (3600, context["created_at"])
    assert renewed["expires_at"] > context["expires_at"] + 3000
    own, its = await checkpoints(answer.id), await checkpoints(context["response_id"])
    assert own is not None
    assert its is not None
    created = datetime.fromtimestamp(context["created_at"], UTC)
    assert own.expires_at > created + timedelta(seconds=3000)
    while its.expires_at < created + timedelta(seconds=3000):  # pytest ends a wait in vain.
        await asyncio.sleep(0.05)
        its = await checkpoints(context["response_id"])
        assert its is not None
    # The caching field says it of the turn itself.
    brief = begun(client, "Hello.", extra_body={"caching": {"ttl": 60}}, **within(context, ttl=3600))
    kept = await checkpoints(brief.id)
    assert kept is not None
    assert kept.expires_at < own.expires_at


async def test_a_lost_prefix_is_made_ready_again(
    client: OpenAI, vllm_url: str, checkpoints: Callable[[str], Awaitable[Checkpoint | None]]
) -> None:
    context = made(client, instructions=instructions(), input="My name is Ada.")
    expected = begun(client, "What is my name?", **within(context))
    assert path(expected) == ("hit", None)
    lost = await checkpoints(context["response_id"])
    assert lost is not None
    forget(vllm_url, lost)
    again = begun(client, "What is my name?", **within(context))
    assert path(again) == ("reseed", "prefix_expired")
    assert again.output_text == expected.output_text
    while (await checkpoints(context["response_id"])) == lost:  # noqa: ASYNC110 - the service has its own loop
        await asyncio.sleep(0.05)
    third = begun(client, "What is my name?", **within(context))
    assert (path(third), third.output_text) == (("hit", None), expected.output_text)


async def test_an_expired_context_is_gone(client: OpenAI, database: Database) -> None:
    context = made(client, instructions=instructions())
    begun(client, "Hello.", **within(context))
    async with database.transaction() as connection:
        past = text("UPDATE contexts SET expires_at = now() WHERE id = :id")
        await connection.execute(past, {"id": context["id"]})
    with pytest.raises(NotFoundError) as caught:
        begun(client, "Hello.", **within(context, ttl=60))
    assert (caught.value.code, caught.value.param) == ("not_found", "x-session-id")
    assert context["id"] in caught.value.message
    assert context["id"] not in [c["id"] for c in read(client, "/contexts")["data"]]
    with pytest.raises(NotFoundError) as caught:
        read(client, f"/contexts/{context['id']}")
    assert caught.value.param == "context_id"
    while True:  # pytest ends a wait in vain.
        try:
            client.responses.retrieve(context["response_id"])
        except NotFoundError:
            return
        await asyncio.sleep(0.05)


def test_conversations_go_on_without_it(client: OpenAI) -> None:
    said = instructions()
    context = made(client, instructions=said, input="My name is Ada.")
    first = begun(client, "What is my name?", **within(context))
    assert deleted(client, context["id"]) == {"id": context["id"], "object": "context", "deleted": True}
    for gone in (lambda: begun(client, "Hello.", **within(context)), lambda: deleted(client, context["id"])):
        with pytest.raises(NotFoundError):
            gone()
    with pytest.raises(NotFoundError):
        client.responses.retrieve(context["response_id"])
    assert path(begun(client, "And now?", first.id, instructions=said)) == ("hit", None)
    items = client.responses.input_items.list(first.id, order="asc").data
    assert [item.content[0].text for item in items] == ["My name is Ada.", "What is my name?"]  # type: ignore[union-attr]


def test_a_context_is_gone_with_its_response(client: OpenAI) -> None:
    context = made(client, instructions="Be kind.")
    client.responses.delete(context["response_id"])
    with pytest.raises(NotFoundError):
        read(client, f"/contexts/{context['id']}")


def test_a_conversation_begins_from_it(client: OpenAI) -> None:
    said = instructions()
    context = made(client, instructions=said, input="My name is Ada.")
    conversation = client.conversations.create()
    first = begun(client, "What is my name?", conversation=conversation.id, **within(context))
    assert (path(first), first.previous_response_id) == (("hit", None), None)
    assert cached(first) >= context["token_count"] // 128 * 128 > 0
    second = begun(client, "And now?", conversation=conversation.id, **within(context))
    assert path(second) == ("hit", None)
    whole = begun(client, "What is my name?", **within(context))
    assert whole.output_text == first.output_text


def test_counting_starts_from_it_too(client: OpenAI, vllm_url: str) -> None:
    said = instructions()
    context = made(client, instructions=said)
    counted = client.responses.input_tokens.count(input="Hello.", **within(context))
    messages = [{"role": "system", "content": said}, {"role": "user", "content": "Hello."}]
    assert counted.input_tokens == len(rendered_ids(vllm_url, messages))


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"x-session-ttl": "0"}, "x-session-ttl"),
        ({"x-session-ttl": "2592001"}, "x-session-ttl"),
        ({"x-session-ttl": "1.5"}, "x-session-ttl"),
        ({"x-session-ttl": "soon"}, "x-session-ttl"),
        ({"x-session-ttl": ""}, "x-session-ttl"),
        ({"x-session-id": ""}, "x-session-id"),
        ({"x-session-id": "two words"}, "x-session-id"),
        ({"x-session-id": "x" * 257}, "x-session-id"),
    ],
)
def test_wrong_headers_are_refused_by_name(client: OpenAI, headers: dict[str, str], name: str) -> None:
    for call in (client.responses.create, client.responses.input_tokens.count):
        with pytest.raises(BadRequestError) as caught:
            call(input="Hello.", extra_headers=headers)
        assert (caught.value.code, caught.value.param) == ("invalid_value", name)


def test_any_other_session_is_only_a_word(client: OpenAI) -> None:
    answer = client.responses.with_raw_response.create(
        input="Hello.", max_output_tokens=1, extra_headers={"x-session-id": "user-7"}
    )
    assert (answer.headers["x-session-id"], answer.headers["x-session-ttl"]) == ("user-7", "3600")
    assert answer.parse().previous_response_id is None
    with pytest.raises(NotFoundError) as caught:
        begun(client, "Hello.", extra_headers={"x-session-id": "ctx_7"})
    assert caught.value.param == "x-session-id"


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({}, "missing_required_parameter", "input"),
        ({"tools": [WEATHER]}, "missing_required_parameter", "input"),
        ({"instructions": "x", "ttl": 0}, "invalid_value", "ttl"),
        ({"instructions": "x", "ttl": "60"}, "invalid_type", "ttl"),
        ({"instructions": "x", "name": "\n"}, "invalid_value", "name"),
        ({"instructions": "x", "nope": 1}, "unknown_parameter", "nope"),
        (
            {"instructions": "x", "previous_response_id": "resp_1"},
            "unsupported_parameter",
            "previous_response_id",
        ),
        ({"instructions": "x", "tool_choice": "required"}, "invalid_value", "tool_choice"),
        ({"input": [{"role": "nobody", "content": "x"}]}, "invalid_value", "input[0].role"),
    ],
)
def test_wrong_fields_are_refused_by_name(client: OpenAI, fields: Json, code: str, param: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        made(client, **fields)
    assert (caught.value.code, caught.value.param) == (code, param)


def test_the_list_has_the_newest_first(client: OpenAI) -> None:
    name = unique()
    contexts = [made(client, instructions="Be kind.", name=name) for _ in range(3)]
    ids = [context["id"] for context in contexts]
    page = read(client, "/contexts", name=name, limit=2)
    assert (page["data"], page["has_more"]) == ([contexts[2], contexts[1]], True)
    rest = read(client, "/contexts", name=name, after=page["last_id"])
    assert ([context["id"] for context in rest["data"]], rest["has_more"]) == (ids[:1], False)


def test_in_the_background_too(client: OpenAI) -> None:
    said = instructions()
    context = made(client, instructions=said)
    queued = client.responses.with_raw_response.create(
        input="Hello.", background=True, max_output_tokens=4, **within(context)
    )
    assert queued.headers["x-session-id"] == context["id"]
    response = queued.parse()
    while response.status in ("queued", "in_progress"):  # pytest ends a wait in vain.
        time.sleep(0.05)
        response = client.responses.retrieve(response.id)
    assert (path(response), response.instructions) == (("hit", None), said)
