"""Conversations through the OpenAI SDK on real vLLM and Postgres: each prompt is what their items say."""

import json
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
from openai import BadRequestError, ConflictError, NotFoundError, OpenAI, omit
from openai.types.responses import Response
from sqlalchemy import text

from app.conversation.records import Checkpoint
from app.main import create_app
from app.prefix.hashing import ids_hash
from app.store.database import Database
from tests.e2e.service import wait_until
from tests.e2e.stack import SECRET, Recorder, ask, path, rendered_ids, sdk, serving, wait_until_idle

Checkpoints = Callable[[str], Awaitable[Checkpoint | None]]
LONG: dict[str, Any] = {"max_output_tokens": 150, "extra_body": {"ignore_eos": True}}
"""An answer that takes a while, for what has to happen meanwhile."""


@pytest.fixture
def conversation(client: OpenAI) -> str:
    return client.conversations.create().id


@pytest.fixture
def refusing(recorder: Recorder, database: Database) -> Iterator[OpenAI]:
    """Another service on the same database and vLLM, which lets nobody wait."""
    url = database.engine.url.render_as_string(hide_password=False)
    settings: dict[str, Any] = {"secret": SECRET, "prefix_ttl_seconds": 3600, "conversation_busy": "refuse"}
    with serving(recorder.app()) as worker:
        app = create_app(database_url=url, worker_urls=[worker], **settings)
        with serving(app) as service, sdk(service) as client:
            yield client


def said(client: OpenAI, conversation: str) -> list[dict[str, Any]]:
    """The conversation's items as chat messages: what a client without state would send."""
    messages = []
    for item in client.conversations.items.list(conversation, order="asc", limit=100):
        assert item.type == "message"
        (part,) = item.content
        messages.append({"role": item.role, "content": part.text})  # type: ignore[union-attr]
    return messages


def assert_prompt(response: Response, checkpoint: Checkpoint | None, ids: list[int]) -> None:
    """vLLM was given exactly these ids."""
    assert checkpoint is not None
    assert checkpoint.prefix_hash == ids_hash(np.array(ids, "<i4").data)
    assert checkpoint.token_count == len(ids) == response.usage.input_tokens  # type: ignore[union-attr]


async def test_turns_continue_by_reference_and_are_the_full_renders(
    client: OpenAI,
    vllm_url: str,
    recorder: Recorder,
    checkpoints: Checkpoints,
    opening: str,
    on_one_line: dict[str, Any],
) -> None:
    items: Any = [{"role": "system", "content": f"Answer whoever says: {opening}"}]
    conversation = client.conversations.create(items=items, metadata={"topic": "names"}).id
    recorder.bodies.clear()
    paths = []
    for question in (opening, "What is my name?", "Name three rivers.", "Say goodbye."):
        before = said(client, conversation)
        answer = ask(client, question, conversation=conversation, extra_body=on_one_line)
        assert answer.conversation is not None and answer.conversation.id == conversation
        assert answer.previous_response_id is None
        paths.append(path(answer))
        asked = [*before, {"role": "user", "content": question}]
        assert_prompt(answer, await checkpoints(answer.id), rendered_ids(vllm_url, asked))
        assert said(client, conversation) == [*asked, {"role": "assistant", "content": answer.output_text}]
        in_full: Any = [{"type": "message", **message} for message in asked]
        fresh = ask(client, in_full, extra_body={"caching": {"type": "disabled"}, **on_one_line})
        assert fresh.output_text == answer.output_text
    assert paths == [("full", "new_conversation"), *[("hit", None)] * 3]
    sent = [json.loads(body)["messages"] for body in recorder.sent("/prefix/v1/chat")]
    assert [len(messages) for messages in sent] == [2, 2, 2, 2]
    assert client.responses.retrieve(answer.id).conversation == answer.conversation


async def test_what_is_deleted_and_added_between_turns_changes_the_next_prompt(
    client: OpenAI,
    vllm_url: str,
    checkpoints: Checkpoints,
    conversation: str,
    opening: str,
    on_one_line: dict[str, Any],
) -> None:
    async def turn(question: str) -> tuple[str, str | None]:
        asked = [*said(client, conversation), {"role": "user", "content": question}]
        counted = client.responses.input_tokens.count(input=question, conversation=conversation)
        fields: Any = {"max_output_tokens": 8, "extra_body": on_one_line}
        answer = ask(client, question, conversation=conversation, **fields)
        ids = rendered_ids(vllm_url, asked)
        assert_prompt(answer, await checkpoints(answer.id), ids)
        assert counted.input_tokens == len(ids)
        return path(answer)

    assert await turn(opening) == ("full", "new_conversation")
    assert await turn("Name a river.") == ("hit", None)
    assert await turn("Name a lake.") == ("hit", None)

    def delete(place: int) -> None:
        items = list(client.conversations.items.list(conversation, order="asc"))
        left = client.conversations.items.delete(items[place].id or "", conversation_id=conversation)
        assert left.id == conversation

    delete(-1)
    assert await turn("And now?") == ("rewind", "items_deleted")
    assert await turn("Go on.") == ("hit", None), "the new turn is continued as any other"
    delete(2)
    assert await turn("Once more.") == ("rewind", "items_deleted")
    client.conversations.items.create(conversation, items=[{"role": "user", "content": "I ask once more:"}])
    assert await turn("A sea?") == ("hit", None)
    delete(0)
    assert await turn("The end.") == ("full", "items_deleted")
    assert await turn("Really.") == ("hit", None)


def test_a_conversation_that_ends_in_a_question_needs_no_input(
    client: OpenAI, conversation: str, opening: str
) -> None:
    with pytest.raises(BadRequestError, match="something to answer") as nothing:
        client.responses.create(conversation=conversation)
    assert nothing.value.param == "input"
    client.conversations.items.create(conversation, items=[{"role": "user", "content": opening}])
    first = ask(client, omit, conversation={"id": conversation})
    assert first.output_text == ask(client, opening).output_text
    with pytest.raises(BadRequestError, match="something to answer"):
        ask(client, [], conversation=conversation)
    client.conversations.items.create(conversation, items=[{"role": "user", "content": "And?"}])
    assert path(ask(client, [], conversation=conversation)) == ("hit", None)
    assert [message["role"] for message in said(client, conversation)] == ["user", "assistant"] * 2


def test_a_prepared_prompt_is_answered(client: OpenAI, conversation: str, opening: str) -> None:
    prewarm: Any = {"prompt_cache_options": {"prewarm": True}}
    ask(client, opening, conversation=conversation, extra_body=prewarm)
    answer = ask(client, omit, conversation=conversation)
    assert answer.output_text == ask(client, opening).output_text


def test_the_output_of_a_call_may_come_as_an_item(client: OpenAI, conversation: str) -> None:
    tool = {
        "type": "function",
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
    fields: dict[str, Any] = {"conversation": conversation, "tools": [tool], "max_output_tokens": 60}
    (call,) = ask(client, "Weather in Paris?", tool_choice="required", **fields).output
    assert call.type == "function_call"
    with pytest.raises(BadRequestError, match="No tool output found") as caught:
        ask(client, "And?", tool_choice="none", **fields)
    assert caught.value.param == "input"
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    added = client.conversations.items.create(conversation, items=[output])
    assert path(ask(client, omit, tool_choice="none", **fields)) == ("hit", None)
    client.conversations.items.delete(call.id or "", conversation_id=conversation)
    with pytest.raises(BadRequestError, match="No tool call found") as caught:
        ask(client, "And?", tool_choice="none", **fields)
    assert caught.value.param == "conversation"
    client.conversations.items.delete(added.first_id, conversation_id=conversation)
    assert ask(client, "And?", tool_choice="none", **fields).status == "completed"


def test_responses_that_are_not_stored_or_are_deleted_leave_their_items(
    client: OpenAI, vllm_url: str, conversation: str, opening: str
) -> None:
    first = ask(client, opening, conversation=conversation)
    unstored = ask(client, "Name a river.", conversation=conversation, store=False)
    assert path(unstored) == ("hit", None)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(unstored.id)
    third = ask(client, "Another.", conversation=conversation)
    client.responses.delete(third.id)
    asked = [*said(client, conversation), {"role": "user", "content": "And?"}]
    assert len(asked) == 7
    last = ask(client, "And?", conversation=conversation)
    assert path(last) == ("hit", None), "from the response before"
    assert last.usage.input_tokens == len(rendered_ids(vllm_url, asked))  # type: ignore[union-attr]
    assert client.responses.retrieve(first.id).conversation is not None


def test_of_two_turns_the_second_waits(client: OpenAI, conversation: str, opening: str) -> None:
    first = client.responses.create(
        input=opening, conversation=conversation, stream=True, temperature=0, **LONG
    )
    next(iter(first))
    with ThreadPoolExecutor() as threads:
        second = threads.submit(ask, client, "And?", conversation=conversation)
        adding = threads.submit(
            client.conversations.items.create, conversation, items=[{"role": "user", "content": "P.S."}]
        )
        answered = list(first)[-1].response  # type: ignore[union-attr]
        assert path(second.result()) == ("hit", None)
        adding.result()
    texts = [message["content"] for message in said(client, conversation)]
    assert texts[:2] == [opening, answered.output_text]
    assert sorted(texts[2:]) == sorted(["And?", second.result().output_text, "P.S."])


def test_of_two_turns_the_second_is_refused_before_anything_is_generated(
    client: OpenAI, refusing: OpenAI, recorder: Recorder, conversation: str, opening: str
) -> None:
    """By another service on the same database."""
    recorder.flowing.clear()
    try:
        first = client.responses.create(input=opening, conversation=conversation, stream=True, **LONG)
        next(iter(first))
        sent = len(recorder.bodies)
        items: Any = [{"role": "user", "content": "P.S."}]
        refused: list[Callable[[], object]] = [
            lambda: refusing.responses.create(input="And?", conversation=conversation),
            lambda: refusing.responses.create(input="And?", conversation=conversation, stream=True),
            lambda: refusing.conversations.items.create(conversation, items=items),
            lambda: refusing.conversations.delete(conversation),
        ]
        for work in refused:
            with pytest.raises(ConflictError) as caught:
                work()
            assert (caught.value.code, caught.value.param) == ("conversation_locked", "conversation")
        assert len(recorder.bodies) == sent
        counted = refusing.responses.input_tokens.count(input="And?", conversation=conversation)
        assert counted.input_tokens > 0, "counting changes nothing and waits for nobody"
    finally:
        recorder.flowing.set()
    assert list(first)[-1].type == "response.incomplete"
    assert path(ask(refusing, "And?", conversation=conversation)) == ("hit", None)
    assert len(said(client, conversation)) == 4


def test_who_hangs_up_leaves_the_conversation_as_it_was_and_free(
    client: OpenAI, refusing: OpenAI, vllm_url: str, conversation: str, opening: str
) -> None:
    first = ask(client, opening, conversation=conversation)
    before = said(client, conversation)
    endless: Any = {"max_output_tokens": 4000, "ignore_eos": True}
    count: Any = {"input": "Count.", "conversation": conversation}
    stream = client.responses.create(**count, stream=True, extra_body=endless)
    for _ in range(5):
        next(iter(stream))
    stream.close()
    wait_until_idle(vllm_url)
    assert said(client, conversation) == before
    assert path(ask(client, "Go on.", conversation=conversation)) == ("hit", None)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{client.base_url}responses", json={**count, **endless}, timeout=httpx.Timeout(30, read=1)
        )
    wait_until_idle(vllm_url)

    def is_free() -> bool:
        try:
            ask(refusing, "Now?", conversation=conversation)
        except ConflictError:
            return False
        return True

    # Long before a lease would expire.
    assert wait_until(is_free, within_s=20)
    assert client.responses.retrieve(first.id).id == first.id


async def test_a_holder_that_was_killed_holds_until_its_lease_expires(
    refusing: OpenAI, database: Database, conversation: str, opening: str
) -> None:
    async def leave_a_lease(seconds: int) -> None:
        """As somebody does who cannot release it any more."""
        left = text(
            "UPDATE conversations SET lease = 'dead', lease_expires_at = now() + :s * interval '1 second' "
            "WHERE id = :id"
        )
        await database.write(left, {"s": seconds, "id": conversation})

    await leave_a_lease(30)
    with pytest.raises(ConflictError):
        ask(refusing, opening, conversation=conversation)
    await leave_a_lease(-1)
    assert path(ask(refusing, opening, conversation=conversation)) == ("full", "new_conversation")
    await leave_a_lease(-1)
    refusing.conversations.items.create(conversation, items=[{"role": "user", "content": "P.S."}])


def test_crud(client: OpenAI) -> None:
    made = client.conversations.create(
        items=[{"role": "user", "content": "hi", "id": "msg_mine/1"}], metadata={"a": "b"}
    )
    assert (made.object, made.metadata) == ("conversation", {"a": "b"})
    assert client.conversations.retrieve(made.id) == made
    changed = client.conversations.update(made.id, metadata={"c": "d"})
    assert changed.metadata == client.conversations.retrieve(made.id).metadata == {"c": "d"}
    assert client.conversations.update(made.id, metadata=None).metadata == {}

    many: Any = [{"role": "user", "content": f"n {n}"} for n in range(20)]
    added = client.conversations.items.create(made.id, items=many)
    assert [item.content[0].text for item in added.data] == [f"n {n}" for n in range(20)]  # type: ignore
    assert (added.first_id, added.last_id, added.has_more) == (added.data[0].id, added.data[-1].id, False)
    ids = ["msg_mine/1", *(item.id for item in added.data)]
    items = client.conversations.items
    assert [item.id for item in items.list(made.id, order="asc", limit=7)] == ids, "page after page"
    assert [item.id for item in items.list(made.id).data] == ids[:0:-1]
    assert [item.id for item in items.list(made.id, after=ids[2]).data] == ids[1::-1]
    one = items.retrieve("msg_mine/1", conversation_id=made.id)
    assert (one.id, one.status, one.content[0].text) == ("msg_mine/1", "completed", "hi")  # type: ignore
    assert items.delete("msg_mine/1", conversation_id=made.id).id == made.id
    for gone in (items.retrieve, items.delete):
        with pytest.raises(NotFoundError):
            gone("msg_mine/1", conversation_id=made.id)

    deleted = client.conversations.delete(made.id)
    assert (deleted.id, deleted.object, deleted.deleted) == (made.id, "conversation.deleted", True)
    with pytest.raises(NotFoundError) as caught:
        client.conversations.retrieve(made.id)
    assert (caught.value.code, caught.value.param) == ("not_found", "conversation_id")


def test_reasoning_is_sealed_where_it_is_asked_for(client: OpenAI, conversation: str) -> None:
    thought: Any = {
        "type": "reasoning",
        "id": "rs_1",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "hm"}],
    }
    items, include = client.conversations.items, ["reasoning.encrypted_content"]
    (plain,) = items.create(conversation, items=[thought]).data
    assert plain.encrypted_content is None  # type: ignore[union-attr]
    sealed: Any = items.retrieve("rs_1", conversation_id=conversation, include=include)  # type: ignore
    assert sealed.encrypted_content
    (listed,) = items.list(conversation, include=include)  # type: ignore[arg-type]
    assert listed.encrypted_content  # type: ignore[union-attr]
    back: Any = {"type": "reasoning", "summary": [], "encrypted_content": sealed.encrypted_content}
    copied = client.conversations.create(items=[back]).id
    (opened,) = items.list(copied)
    assert opened.content[0].text == "hm"  # type: ignore
    with pytest.raises(BadRequestError) as caught:
        client.conversations.create(items=[{**back, "encrypted_content": "mr1_x"}])
    assert (caught.value.code, caught.value.param) == (
        "invalid_encrypted_content",
        "items[0].encrypted_content",
    )


def test_refusals_name_the_field(client: OpenAI, conversation: str) -> None:
    def refused(route: str, **body: Any) -> tuple[int, str | None, str | None]:
        answer = httpx.post(f"{client.base_url}{route}", json=body, timeout=60)
        error = answer.json()["error"]
        return answer.status_code, error["code"], error["param"]

    one = {"role": "user", "content": "x"}
    hers = {**one, "id": "msg_1"}
    assert client.conversations.items.create(conversation, items=[hers]).first_id == "msg_1"  # type: ignore
    own = f"conversations/{conversation}"
    missing = (404, "not_found", "conversation")
    for route in ("responses", "responses/input_tokens"):
        assert refused(route, input="x", conversation="conv_0") == missing
        both: dict[str, Any] = {"conversation": conversation, "previous_response_id": "resp_0"}
        assert refused(route, input="x", **both) == (400, "invalid_value", "conversation")
        assert refused(route) == (400, "missing_required_parameter", "input")
        assert refused(route, input=[]) == (400, "invalid_value", "input")
        assert refused(route, input=[one, hers], conversation=conversation) == (
            400,
            "invalid_value",
            "input[1].id",
        )
    assert refused("responses", input="x", conversation={"id": 1}) == (
        400,
        "invalid_type",
        "conversation.id",
    )
    assert refused("conversations", items=[one] * 21) == (400, "invalid_value", "items")
    assert refused("conversations", items=[hers, hers]) == (400, "invalid_value", "items[1].id")
    assert refused("conversations", model="m") == (400, "unknown_parameter", "model")
    assert refused("conversations", metadata={"a": 1}) == (400, "invalid_type", "metadata.a")
    assert refused(own) == (400, "missing_required_parameter", "metadata")
    assert refused(f"{own}/items", items=[]) == (400, "invalid_value", "items")
    assert refused(f"{own}/items") == (400, "missing_required_parameter", "items")
    assert refused(f"{own}/items", items=[one, hers]) == (400, "invalid_value", "items[1].id")
    reference = {"type": "item_reference", "id": "msg_0"}
    assert refused(f"{own}/items", items=[reference]) == (404, "not_found", "items[0].id")
    assert refused("conversations/conv_0/items", items=[one]) == (404, "not_found", "conversation_id")
