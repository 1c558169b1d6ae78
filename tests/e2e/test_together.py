"""Where features meet: conversations, the background, MCP tools, compaction, contexts and the WebSocket, two
or three at a time, on real vLLM and Postgres."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from openai import BadRequestError, OpenAI, omit
from openai.types.responses import Response
from sqlalchemy import text

from app.conversation.records import DEFAULT_TENANT, ResponseId, Segment
from app.engine import messages
from app.local.model import DEFAULT_MODEL
from app.main import create_app
from app.prefix.hashing import ids_hash
from app.store.database import Database
from app.store.responses import PostgresResponseStore
from bench.stack import MODEL
from bench.texts import ANSWER, CALL
from tests import mcp_servers as made
from tests.conftest import migrated_database
from tests.e2e.stack import (
    SECRET,
    Proxy,
    caching,
    path,
    polled,
    rendered_ids,
    sdk,
    serving,
    wait_until_idle,
)

CALLED = f"Please look it up. {CALL} 1]]"
LONG = {"max_output_tokens": 6000, "background": True}
"""It does not end by itself: see Holding."""
Json = dict[str, Any]


class Holding(Proxy):
    """Answers as long as LONG's come no further than their beginning, which costs the machine nothing."""

    async def relayed(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        holds = b'"max_completion_tokens":%d' % LONG["max_output_tokens"] in answer.request.content
        async for part in super().relayed(answer):
            yield part
            if holds:
                await answer.aclose()
                await asyncio.sleep(3600)


@pytest_asyncio.fixture(scope="module")
async def own(postgres_url: str) -> AsyncIterator[Database]:
    """A database of this file's own: whatever service shares one may take its jobs."""
    async for database in migrated_database(postgres_url):
        yield database


@pytest.fixture(scope="module")
def client(own: Database, vllm_url: str, scripted_vllm_url: str) -> Iterator[OpenAI]:
    """A service with both models."""
    with serving(Holding(scripted_vllm_url).app()) as worker:
        app = create_app(
            database_url=own.engine.url.render_as_string(hide_password=False),
            worker_urls=[vllm_url, worker],
            secret=SECRET,
            prefix_ttl_seconds=3600,
            mcp_timeout_seconds=60.0,
        )
        with serving(app) as service, sdk(service) as client:
            yield client


@pytest.fixture(autouse=True)
def idle(client: OpenAI, vllm_url: str, scripted_vllm_url: str) -> Iterator[None]:
    """Nothing is left running."""
    yield
    wait_until_idle(scripted_vllm_url)
    wait_until_idle(vllm_url)


@pytest.fixture
def conversation(client: OpenAI) -> str:
    return client.conversations.create().id


class Box:
    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.calls = made.Calls()

    def tool(self, rounds: int, **more: Any) -> Json:
        app = made.streamable(made.toolbox(self.calls, rounds=rounds))
        url = self._stack.enter_context(serving(app)) + "/mcp"
        return {"type": "mcp", "server_label": "box", "server_url": url, "require_approval": "never", **more}

    @property
    def steps(self) -> list[int]:
        return [arguments["step"] for _, arguments in self.calls.made]


@pytest.fixture
def box() -> Iterator[Box]:
    with ExitStack() as stack:
        yield Box(stack)


def small(client: OpenAI, question: Any, **fields: Any) -> Response:
    """A greedy turn of the small model."""
    fields = {"model": DEFAULT_MODEL, "max_output_tokens": 16, "temperature": 0, **fields}
    response: Response = client.responses.create(input=question, **fields)
    return response


def scripted(client: OpenAI, question: Any, **fields: Any) -> Response:
    fields = {"model": MODEL, "max_output_tokens": 400, "temperature": 0, **fields}
    response: Response = client.responses.create(input=question, **fields)
    return response


def answered(client: OpenAI, made: Response) -> Response:
    """A job's answer, once it is there."""
    response = polled(client, made.id)
    assert response.status in ("completed", "incomplete"), response
    return response


def until_begun(client: OpenAI, made: Response) -> None:
    deadline = time.monotonic() + 60
    while (response := client.responses.retrieve(made.id)).status == "queued":
        assert time.monotonic() < deadline, response
        time.sleep(0.02)


def managed(threshold: int) -> Json:
    return {"context_management": [{"type": "compaction", "compact_threshold": threshold}]}


def kinds(items: Any) -> list[str]:
    """Less the white space that the scripted model writes between its reasoning and a call."""
    return [i.type for i in items if not (i.type == "message" and not i.content[0].text.strip())]


def items_of(client: OpenAI, conversation: str) -> list[Any]:
    return list(client.conversations.items.list(conversation, order="asc", limit=100))


def said(client: OpenAI, conversation: str) -> list[Json]:
    """The conversation's messages: what a client without state would send."""
    spoken = [i for i in items_of(client, conversation) if i.type == "message"]
    return [{"role": i.role, "content": i.content[0].text} for i in spoken]


def asked_in(client: OpenAI, conversation: str) -> list[str]:
    """What the user said."""
    return [message["content"] for message in said(client, conversation) if message["role"] == "user"]


def is_free(client: OpenAI, conversation: str) -> bool:
    """Adding an item waits for a turn that runs."""
    added = client.conversations.items.create(conversation, items=[{"role": "user", "content": "x"}])
    client.conversations.items.delete(added.data[0].id or "", conversation_id=conversation)
    return True


async def checkpoint(own: Database, response: Response) -> Any:
    parent = await PostgresResponseStore(own).parent(DEFAULT_TENANT, ResponseId(response.id))
    assert parent is not None
    return parent.checkpoint


async def assert_prompt(own: Database, response: Response, ids: list[int]) -> None:
    """vLLM was given exactly these ids."""
    kept = await checkpoint(own, response)
    assert kept is not None
    assert kept.prefix_hash == ids_hash(np.array(ids, "<i4").data)
    assert kept.token_count == len(ids)


async def last_prompt(own: Database, response: Response, vllm_url: str, tools: Any = ()) -> list[int]:
    """Of the turn's last round, rendered whole from what is stored."""
    history = await PostgresResponseStore(own).history(DEFAULT_TENANT, ResponseId(response.id))
    at = caching(response).get("rounds", [{"output_index": 0}])[-1]["output_index"]
    turn = Segment(history[-1].input_items, history[-1].output_items[:at])
    functions = [
        {
            "type": "function",
            "function": {"name": t.name, "description": t.description, "parameters": t.input_schema},
        }
        for t in tools
    ]
    whole = messages.whole(None, [*history[:-1], turn], ())
    return rendered_ids(vllm_url, whole, model=MODEL, **({"tools": functions} if tools else {}))


# Background and conversations


async def test_background_turns_of_a_conversation(
    client: OpenAI, own: Database, vllm_url: str, conversation: str, opening: str
) -> None:
    first = small(client, opening, conversation=conversation, background=True)
    assert first.conversation is not None and first.conversation.id == conversation
    first = answered(client, first)
    assert path(first) == ("full", "new_conversation")
    second = small(client, "What is my name?", conversation=conversation)
    assert path(second) == ("hit", None)
    third = answered(client, small(client, "Why?", conversation=conversation, background=True))
    assert path(third) == ("hit", None)
    assert third.conversation == first.conversation and third.previous_response_id is None
    talk = said(client, conversation)
    assert [m["content"] for m in talk] == [
        opening,
        first.output_text,
        "What is my name?",
        second.output_text,
        "Why?",
        third.output_text,
    ]
    await assert_prompt(own, third, rendered_ids(vllm_url, talk[:-1]))


def test_jobs_of_one_conversation_are_made_in_order(client: OpenAI, conversation: str) -> None:
    questions = [f"Question {n}." for n in range(6)]
    jobs = [
        scripted(client, q, conversation=conversation, background=True, max_output_tokens=40)
        for q in questions
    ]
    answers = [answered(client, job) for job in jobs]
    assert asked_in(client, conversation) == questions
    assert {path(answer)[0] for answer in answers[1:]} <= {"hit", "rewind"}


def test_jobs_that_wait_for_a_conversation_keep_no_other_from_being_made(
    client: OpenAI, conversation: str
) -> None:
    busy = [scripted(client, "Go on.", conversation=conversation, **LONG) for _ in range(6)]
    other = scripted(client, "Hello.", background=True, max_output_tokens=8)
    assert answered(client, other).status == "incomplete"
    for job in reversed(busy):
        client.responses.cancel(job.id)
    assert client.responses.retrieve(busy[-1].id).status == "cancelled", "it was still to come"
    assert is_free(client, conversation)


def test_a_cancelled_turn_leaves_the_conversation_as_it_was_and_free(
    client: OpenAI, conversation: str
) -> None:
    scripted(client, "Hello.", conversation=conversation, max_output_tokens=20)
    for end in (client.responses.cancel, client.responses.delete):
        job = scripted(client, "Go on.", conversation=conversation, **LONG)
        until_begun(client, job)
        with pytest.raises(BadRequestError, match="cannot be continued: it is in_progress") as caught:
            scripted(client, "And?", previous_response_id=job.id)
        assert caught.value.param == "previous_response_id"
        waiting = scripted(client, "And?", conversation=conversation, background=True, max_output_tokens=8)
        end(job.id)
        assert path(answered(client, waiting))[0] in ("hit", "rewind")
    assert asked_in(client, conversation) == ["Hello.", "And?", "And?"]


async def test_a_job_whose_lease_was_lost_is_made_again(
    client: OpenAI, own: Database, conversation: str
) -> None:
    stolen = text("UPDATE conversations SET lease = NULL, lease_expires_at = NULL WHERE id = :id")
    job = scripted(client, "Go on.", conversation=conversation, background=True, max_output_tokens=300)
    until_begun(client, job)
    await asyncio.sleep(0.3)
    await own.write(stolen, {"id": conversation})
    response = await asyncio.to_thread(answered, client, job)
    assert response.status == "incomplete", response
    events = list(client.responses.retrieve(job.id, stream=True))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert [i.id for i in items_of(client, conversation)][1:] == [i.id for i in response.output]


# Background and MCP


async def test_a_loop_of_tools_in_the_background_of_a_conversation(
    client: OpenAI, own: Database, scripted_vllm_url: str, conversation: str, box: Box
) -> None:
    tool = box.tool(3)
    asked: Json = {"conversation": conversation, "tools": [tool]}
    job = scripted(client, CALLED, **asked, background=True)
    first = answered(client, job)
    assert kinds(first.output) == ["mcp_list_tools", *["reasoning", "mcp_call"] * 3, "reasoning", "message"]
    assert box.steps == [1, 2, 3]
    each = caching(first)["rounds"]
    assert [r["path"] for r in each[1:]] == ["hit"] * 3
    events = list(client.responses.retrieve(job.id, stream=True))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert events[-1].response == first  # type: ignore[union-attr]
    ran = [e for e in events if e.type == "response.mcp_call.completed"]
    assert len(ran) == 3
    after = ran[1].sequence_number
    rest = list(client.responses.retrieve(job.id, stream=True, starting_after=after))
    assert rest == events[after + 1 :]
    assert "response.mcp_call.in_progress" in [e.type for e in rest]

    listed = items_of(client, conversation)
    assert kinds(listed) == ["message", *kinds(first.output)]
    assert [i.id for i in listed[1:]] == [i.id for i in first.output]
    tools = first.output[0].tools  # type: ignore[union-attr]
    await assert_prompt(own, first, await last_prompt(own, first, scripted_vllm_url, tools))
    second = scripted(client, f"And now? {ANSWER}", **asked)
    # The template drops the reasoning of the turn before.
    assert path(second)[0] == "rewind"
    await assert_prompt(own, second, await last_prompt(own, second, scripted_vllm_url, tools))
    third = answered(client, scripted(client, f"Again. {CALL} 3]]", **asked, background=True))
    assert path(third) == ("hit", None)
    await assert_prompt(own, third, await last_prompt(own, third, scripted_vllm_url, tools))

    # A call is deleted: its turn is no longer one, its other items are what was said.
    call = [i for i in first.output if i.type == "mcp_call"][1]
    client.conversations.items.delete(call.id or "", conversation_id=conversation)
    left = [i.id for i in items_of(client, conversation)]
    assert call.id not in left
    counted = client.responses.input_tokens.count(model=MODEL, input=f"Go on. {ANSWER}", **asked)
    fourth = scripted(client, f"Go on. {ANSWER}", **asked)
    assert path(fourth)[0] in ("full", "rewind")
    assert kinds(fourth.output)[-2:] == ["reasoning", "message"], "and nothing is called for it"
    assert box.steps == [1, 2, 3, 3]
    ids = await last_prompt(own, fourth, scripted_vllm_url, tools)
    assert counted.input_tokens == len(ids)
    await assert_prompt(own, fourth, ids)
    history = await PostgresResponseStore(own).history(DEFAULT_TENANT, ResponseId(fourth.id))
    flat = [i["id"] for s in history for i in (*s.input_items, *s.output_items)]
    assert flat == [i.id for i in items_of(client, conversation)]
    assert path(scripted(client, f"More. {ANSWER}", **asked))[0] in ("hit", "rewind")


def test_a_call_that_was_approved_is_run_once_whatever_is_deleted(
    client: OpenAI, conversation: str, box: Box
) -> None:
    asked: Json = {"conversation": conversation, "tools": [box.tool(1, require_approval="always")]}
    first = answered(client, scripted(client, CALLED, **asked, background=True))
    request = first.output[-1]
    assert request.type == "mcp_approval_request"
    yes: Any = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": True}
    client.conversations.items.create(conversation, items=[yes])
    second = answered(client, scripted(client, omit, **asked, background=True))
    assert kinds(second.output) == ["mcp_call", "reasoning", "message"]
    assert box.steps == [1]
    assert path(second) == ("hit", None)
    client.conversations.items.delete(second.output[0].id or "", conversation_id=conversation)
    scripted(client, f"And? {ANSWER}", **asked)
    assert box.steps == [1], "not again"
    client.conversations.items.delete(request.id, conversation_id=conversation)
    scripted(client, f"And? {ANSWER}", **asked)
    assert box.steps == [1]


def test_cancelling_while_a_tool_runs(client: OpenAI, conversation: str) -> None:
    reached = threading.Event()

    async def hang(_: Any) -> Any:
        reached.set()
        await asyncio.sleep(3600)

    lookup = {"name": "lookup", "inputSchema": {"type": "object", "properties": {}}}
    app = made.liar(tools_list={"result": {"tools": [lookup]}}, tools_call=hang)
    with serving(app) as url:
        tool = {"type": "mcp", "server_label": "slow", "server_url": url, "require_approval": "never"}
        job = scripted(client, CALLED, tools=[tool], conversation=conversation, background=True)
        assert reached.wait(60)
        assert client.responses.cancel(job.id).status == "cancelled"
        assert is_free(client, conversation)
    assert items_of(client, conversation) == []
    events = list(client.responses.retrieve(job.id, stream=True))
    assert "response.mcp_call.in_progress" in [e.type for e in events]


# Compaction


async def test_a_conversation_is_compacted_in_the_background(
    client: OpenAI, own: Database, vllm_url: str, conversation: str, opening: str
) -> None:
    asked: Json = {"conversation": conversation}
    small(client, opening, **asked)
    small(client, "Why?", **asked)
    count = client.responses.input_tokens.count(model=DEFAULT_MODEL, input="Where?", **asked).input_tokens
    assert path(small(client, "Where?", **asked, **managed(count + 1))) == ("hit", None)
    job = small(client, "When?", **asked, background=True, **managed(count))
    at = answered(client, job)
    assert (kinds(at.output), path(at)) == (["compaction", "message"], ("full", "compacted"))
    assert caching(at)["compaction"]["path"] == "hit"
    events = list(client.responses.retrieve(job.id, stream=True))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert "response.compaction.compacting" in [e.type for e in events]
    assert events[-1].response == at  # type: ignore[union-attr]
    assert kinds(items_of(client, conversation)) == [*["message"] * 7, "compaction", "message"]
    counted = client.responses.input_tokens.count(model=DEFAULT_MODEL, input="How?", **asked)
    after = small(client, "How?", **asked)
    assert path(after) == ("hit", None)
    assert after.usage is not None and after.usage.input_tokens == counted.input_tokens
    # What a client that carries the items itself would send is the same prompt.
    listed: Any = [i.to_dict() for i in items_of(client, conversation)]
    whole = client.responses.input_tokens.count(model=DEFAULT_MODEL, input=listed[:-1])
    assert whole.input_tokens == counted.input_tokens
    # Without the compaction everything before it is there again.
    item = next(i for i in items_of(client, conversation) if i.type == "compaction")
    client.conversations.items.delete(item.id or "", conversation_id=conversation)
    talk = [*said(client, conversation), {"role": "user", "content": "So?"}]
    again = small(client, "So?", **asked)
    assert path(again) == ("rewind", "items_deleted")
    await assert_prompt(own, again, rendered_ids(vllm_url, talk))


def test_a_trigger_in_a_conversation(client: OpenAI, conversation: str, opening: str) -> None:
    asked: Json = {"conversation": conversation}
    small(client, opening, **asked)
    trigger: Any = [{"type": "compaction_trigger"}]
    compacted = answered(client, small(client, trigger, **asked, background=True, max_output_tokens=24))
    assert (kinds(compacted.output), path(compacted)) == (["compaction"], ("hit", None))
    with pytest.raises(BadRequestError, match="something to answer"):
        small(client, omit, **asked)
    assert path(small(client, "Why?", **asked)) in (("full", "compacted"), ("hit", "found_by_content"))
    assert path(small(client, "Where?", **asked)) == ("hit", None)
    assert kinds(items_of(client, conversation)) == [*["message"] * 2, "compaction", *["message"] * 4]


def test_a_loop_of_tools_is_compacted_in_the_background_of_a_conversation(
    client: OpenAI, conversation: str, box: Box, opening: str
) -> None:
    asked: Json = {"conversation": conversation, "tools": [box.tool(2)]}
    scripted(client, f"{opening} {ANSWER}", **asked)
    first = answered(client, scripted(client, CALLED, **asked, background=True, **managed(1)))
    assert kinds(first.output) == ["compaction", *["reasoning", "mcp_call"] * 2, "reasoning", "message"]
    assert [r["path"] for r in caching(first)["rounds"][1:]] == ["hit", "hit"]
    second = scripted(client, f"And now? {ANSWER}", **asked)
    assert path(second)[0] in ("hit", "rewind")
    assert kinds(second.output) == ["reasoning", "message"]
    counted = client.responses.input_tokens.count(model=MODEL, input=f"So? {ANSWER}", **asked)
    third = scripted(client, f"So? {ANSWER}", **asked)
    assert third.usage is not None and third.usage.input_tokens == counted.input_tokens
    assert path(third) == ("hit", None)


# The WebSocket


def final(connection: Any) -> Response:
    for event in connection:
        assert event.type not in ("error", "response.failed"), event
        if event.type in ("response.completed", "response.incomplete"):
            response: Response = event.response
            break
    return response


def test_two_sockets_on_one_conversation(client: OpenAI, conversation: str, opening: str) -> None:
    with client.responses.connect() as one, client.responses.connect() as two:
        fields: Any = {"model": DEFAULT_MODEL, "conversation": conversation, "temperature": 0}
        one.response.create(input=opening, max_output_tokens=60, **fields)
        assert one.recv().type == "response.created"
        two.response.create(input="And?", max_output_tokens=8, store=False, **fields)
        first, second = final(one), final(two)
        assert path(second) == ("hit", None)
        one.response.create(input="Why?", max_output_tokens=8, **fields)
        third = final(one)
    assert path(third)[0] == "hit"
    assert [m["content"] for m in said(client, conversation)][1::2] == [
        answer.output_text for answer in (first, second, third)
    ]
    # Going on after the response that was the head is gone.
    client.responses.delete(third.id)
    assert path(small(client, "Go on.", conversation=conversation))[0] == "hit"


def test_tools_and_compaction_on_a_socket_that_stores_nothing(client: OpenAI, box: Box, opening: str) -> None:
    fields: Any = {"model": MODEL, "tools": [box.tool(2)], "store": False, "max_output_tokens": 400}
    with client.responses.connect() as connection:
        connection.response.create(input=f"{opening} {CALLED}", **fields)
        first = final(connection)
        assert box.steps == [1, 2]
        connection.response.create(input=f"So? {ANSWER}", previous_response_id=first.id, **fields)
        second = final(connection)
        # The template drops the reasoning of the turn before.
        assert path(second)[0] == "rewind"
        asked: Any = {"previous_response_id": second.id, **managed(1), **fields}
        connection.response.create(input=f"Why? {ANSWER}", **asked)
        third = final(connection)
        assert (kinds(third.output)[0], path(third)) == ("compaction", ("full", "compacted"))
        connection.response.create(input=f"When? {ANSWER}", previous_response_id=third.id, **fields)
        assert path(final(connection))[0] in ("hit", "rewind")


# Contexts


async def test_a_conversation_from_a_context_in_the_background(
    client: OpenAI, own: Database, vllm_url: str, conversation: str, opening: str
) -> None:
    body = {"model": DEFAULT_MODEL, "instructions": f"{opening} Be brief."}
    context: Any = client.post("/contexts", body=body, cast_to=object)
    asked: Json = {"conversation": conversation, "extra_headers": {"x-session-id": context["id"]}}
    first = answered(client, small(client, "Name a river.", **asked, background=True))
    assert path(first) == ("hit", None)
    second = answered(client, small(client, "Another.", **asked, background=True))
    assert path(second) == ("hit", None)
    told = {"role": "system", "content": body["instructions"]}
    await assert_prompt(own, second, rendered_ids(vllm_url, [told, *said(client, conversation)[:-1]]))
    client.delete(f"/contexts/{context['id']}", cast_to=object)
    third = small(client, "One more.", conversation=conversation, instructions=body["instructions"])
    assert path(third) == ("hit", None)
    await assert_prompt(own, third, rendered_ids(vllm_url, [told, *said(client, conversation)[:-1]]))


def test_a_prewarmed_turn_of_a_conversation(client: OpenAI, conversation: str, opening: str) -> None:
    asked: Json = {"conversation": conversation}
    prewarm: Any = {"prompt_cache_options": {"prewarm": True}}
    prepared = answered(client, small(client, opening, **asked, background=True, extra_body=prewarm))
    assert prepared.output == []
    assert path(small(client, omit, **asked)) == ("hit", None)
