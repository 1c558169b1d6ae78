"""The tool loop end to end: a scripted model on real vLLM, real MCP servers, the OpenAI SDK.

The model's template is Qwen3's, which drops the reasoning of earlier turns; within one turn it keeps it.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import numpy as np
import pytest
from openai import BadRequestError, OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from app.conversation.records import DEFAULT_TENANT, ResponseId, Segment
from app.engine import messages
from app.prefix.hashing import ids_hash
from app.store.database import Database
from app.store.responses import PostgresResponseStore
from bench.texts import ANSWER, CALL, words
from tests import mcp_servers as made
from tests.e2e.stack import caching, path, rendered_ids, serving, wait_until_idle

CALLED = f"Please look it up. {CALL} 1]]"
LONG = words(random.Random(1), 80)
"""What is scripted looks at the end of its prompt."""
EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


class Box:
    """A running server of tools."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.calls = made.Calls()

    def tool(self, rounds: int, label: str = "box", **more: Any) -> dict[str, Any]:
        app = made.streamable(made.toolbox(self.calls, rounds=rounds))
        url = self._stack.enter_context(serving(app)) + "/mcp"
        named = {"type": "mcp", "server_label": label, "server_url": url, "require_approval": "never"}
        return {**named, **more}


@pytest.fixture
def box() -> Iterator[Box]:
    with ExitStack() as stack:
        yield Box(stack)


@pytest.fixture
def asking(client_for: Callable[..., OpenAI], scripted_vllm_url: str) -> OpenAI:
    return client_for(scripted_vllm_url)


def kinds(response: Response) -> list[str]:
    """Of its items, less the white space that the model writes between its reasoning and a call."""
    return [item.type for item in response.output if not is_white(item)]


def is_white(item: Any) -> bool:
    return item.type == "message" and not item.content[0].text.strip()


def rounds(response: Response) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = caching(response)["rounds"]
    return made


def ask(client: OpenAI, **fields: Any) -> Response:
    return client.responses.create(**{"model": "bench", "max_output_tokens": 600, **fields})


def test_ten_rounds_tokenize_each_its_margin(asking: OpenAI, box: Box) -> None:
    response = ask(asking, input=CALLED, tools=[box.tool(10)])
    assert [call["step"] for _, call in box.calls.made] == list(range(1, 11))
    assert kinds(response) == ["mcp_list_tools", *["reasoning", "mcp_call"] * 10, "reasoning", "message"]
    assert response.output_text.strip() == "It is done."
    each = rounds(response)
    assert len(each) == 11
    assert [(one["path"], one["reason"]) for one in each[1:]] == [("hit", None)] * 10
    margins = [one["tokenized_tokens"] for one in each[1:]]
    # A reasoning, a call and its output, whatever came before.
    assert max(margins) < 150
    assert max(margins) - min(margins) < 20
    assert each[-1]["reused_tokens"] > 10 * (min(margins) // 2)
    ran = [at for at, item in enumerate(response.output) if item.type == "mcp_call"]
    assert [one["output_index"] for one in each] == [0, *(at + 1 for at in ran)]
    assert response.usage is not None
    assert response.usage.output_tokens > 11


async def test_the_prompts_are_those_of_a_full_render(
    asking: OpenAI, box: Box, scripted_vllm_url: str, database: Database
) -> None:
    tool = box.tool(3)
    first = ask(asking, input=CALLED, tools=[tool])
    second = ask(asking, input="And now? [[answer]]", previous_response_id=first.id, tools=[tool])
    third = ask(asking, input="Again. [[call 3]]", previous_response_id=second.id, tools=[tool])
    # The template drops the reasoning of the turn before, which was in the prompt of its last round.
    assert [path(r)[0] for r in (second, third)] == ["rewind", "hit"]
    assert kinds(third) == ["reasoning", "mcp_call", "reasoning", "message"]
    store = PostgresResponseStore(database)
    for response, before in ((first, None), (second, first), (third, second)):
        parent = await store.parent(DEFAULT_TENANT, ResponseId(response.id))
        assert parent is not None and parent.checkpoint is not None
        history = await store.history(DEFAULT_TENANT, ResponseId(before.id)) if before else []
        at = caching(response).get("rounds", [{"output_index": 0}])[-1]["output_index"]
        new = (await store.history(DEFAULT_TENANT, ResponseId(response.id)))[-1].input_items
        segment = Segment(new, parent.output_items[:at])
        tools = [function(tool) for tool in first.output[0].tools]  # type: ignore[union-attr]
        ids = rendered_ids(
            scripted_vllm_url, messages.whole(None, [*history, segment], ()), tools=tools, model="bench"
        )
        assert parent.checkpoint.prefix_hash == ids_hash(np.array(ids, "<i4").data)
        assert response.usage is not None
        assert rounds_input(response) == len(ids)


def rounds_input(response: Response) -> int:
    last = caching(response).get("rounds", [caching(response)])[-1]
    return int(last["reused_tokens"] + last["tokenized_tokens"])


def function(tool: Any) -> dict[str, Any]:
    described = {"name": tool.name, "description": tool.description, "parameters": tool.input_schema}
    return {"type": "function", "function": described}


def test_events_are_the_sdks_in_openais_order(asking: OpenAI, box: Box) -> None:
    stream = asking.responses.create(
        model="bench", input=CALLED, tools=[box.tool(2)], stream=True, max_output_tokens=600
    )
    events = [event.model_dump(exclude_unset=True) for event in stream]
    for event in events:
        EVENT.validate_python(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    told = [event["type"].removeprefix("response.") for event in events]
    assert told[2:6] == [
        "output_item.added",
        "mcp_list_tools.in_progress",
        "mcp_list_tools.completed",
        "output_item.done",
    ]
    output = events[-1]["response"]["output"]
    at = next(at for at, item in enumerate(output) if item["type"] == "mcp_call")
    of_call = [e for e in events if e.get("output_index") == at]
    once = list(dict.fromkeys(event["type"].removeprefix("response.") for event in of_call))
    assert once == [
        "output_item.added",
        "mcp_call.in_progress",
        "mcp_call_arguments.delta",
        "mcp_call_arguments.done",
        "mcp_call.completed",
        "output_item.done",
    ]
    assert "".join(e["delta"] for e in of_call if e["type"].endswith(".delta")) == '{"step": 1}'
    done = of_call[-1]["item"]
    assert (done["output"], done["error"]) == ("Step 1 is known. [[call 2]]", None)
    assert output[at] == done


@pytest.mark.parametrize("stored", [True, False])
def test_an_approved_call_is_run_and_its_turn_goes_on_by_reference(
    stored: bool, asking: OpenAI, box: Box
) -> None:
    tool = box.tool(2, require_approval="always")
    first = ask(asking, input=CALLED, tools=[tool], store=stored)
    assert kinds(first) == ["mcp_list_tools", "reasoning", "mcp_approval_request"]
    assert not box.calls.made
    request = first.output[-1]
    yes = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": True}
    if stored:
        given, more = [yes], {"previous_response_id": first.id}
    else:
        given = [{"role": "user", "content": CALLED}, *(i.model_dump() for i in first.output), yes]
        more = {"store": False}
    second = ask(asking, input=given, tools=[tool], **more)
    assert kinds(second) == ["mcp_call", "reasoning", "mcp_approval_request"]
    call = second.output[0]
    assert call.approval_request_id == request.id  # type: ignore[union-attr]
    assert (call.status, call.output) == ("completed", "Step 1 is known. [[call 2]]")  # type: ignore[union-attr]
    if not stored:
        return
    assert path(second) == ("hit", None)
    again = {**yes, "approval_request_id": second.output[-1].id}
    third = ask(asking, input=[again], tools=[tool], previous_response_id=second.id)
    assert kinds(third) == ["mcp_call", "reasoning", "message"]
    assert path(third) == ("hit", None)
    assert [arguments["step"] for _, arguments in box.calls.made] == [1, 2]
    with pytest.raises(BadRequestError) as refused:
        ask(asking, input=[yes], tools=[tool], previous_response_id=third.id)
    assert refused.value.body["param"] == "input[0].approval_request_id"  # type: ignore[index]


def test_a_denied_call_is_not_run_and_the_model_is_told(asking: OpenAI, box: Box) -> None:
    tool = box.tool(2, require_approval={"always": {"tool_names": ["lookup"]}})
    first = ask(asking, input=CALLED, tools=[tool])
    no = {
        "type": "mcp_approval_response",
        "approval_request_id": first.output[-1].id,
        "approve": False,
        "reason": "Not today. [[answer]]",
    }
    second = ask(asking, input=[no], tools=[tool], previous_response_id=first.id)
    assert kinds(second) == ["reasoning", "message"]
    assert path(second) == ("hit", None)
    assert not box.calls.made


def test_a_request_that_is_not_answered_is_as_if_it_had_not_been_made(asking: OpenAI, box: Box) -> None:
    tool = box.tool(2, require_approval="always")
    first = ask(asking, input=CALLED, tools=[tool])
    second = ask(asking, input=f"Never mind. {LONG} {ANSWER}", tools=[tool], previous_response_id=first.id)
    assert kinds(second) == ["reasoning", "message"]
    assert not box.calls.made


def test_only_allowed_tools_are_offered(asking: OpenAI, box: Box) -> None:
    tool = box.tool(2, allowed_tools={"read_only": True})
    response = ask(asking, input=CALLED, tools=[tool])
    assert [t.name for t in response.output[0].tools] == ["lookup"]  # type: ignore[union-attr]
    other = ask(asking, input=CALLED, tools=[{**tool, "allowed_tools": ["fail", "hang"]}])
    # To the model `lookup` is no tool then: what it wrote is the client's to answer.
    assert [t.name for t in other.output[0].tools] == ["fail", "hang"]  # type: ignore[union-attr]
    assert "mcp_call" not in kinds(other)


def test_a_dead_server_fails_its_listing_and_the_turn_goes_on(asking: OpenAI, box: Box) -> None:
    dead = {"type": "mcp", "server_label": "dead", "server_url": "http://127.0.0.1:9/mcp"}
    response = ask(asking, input=CALLED, tools=[dead, box.tool(1)])
    listed, alive = response.output[:2]
    assert listed.error == "The server cannot be reached (ConnectError)."  # type: ignore[union-attr]
    assert listed.tools == [] and alive.error is None  # type: ignore[union-attr]
    assert response.output_text.strip() == "It is done."
    stream = asking.responses.create(model="bench", input="Hello [[answer]]", tools=[dead], stream=True)
    assert [e.type for e in stream if "mcp" in e.type] == [
        "response.mcp_list_tools.in_progress",
        "response.mcp_list_tools.failed",
    ]


def test_a_call_that_hangs_fails_and_the_model_is_told(
    client_for: Callable[..., OpenAI], scripted_vllm_url: str
) -> None:
    client = client_for(scripted_vllm_url, mcp_timeout_seconds=3.0)

    async def never(_: Any) -> Any:
        await asyncio.sleep(3600)

    lookup = {"name": "lookup", "inputSchema": {"type": "object", "properties": {}}}
    app = made.liar(tools_list={"result": {"tools": [lookup]}}, tools_call=never)
    with serving(app) as url:
        tool = {"type": "mcp", "server_label": "slow", "server_url": url, "require_approval": "never"}
        response = ask(client, input=CALLED, tools=[tool], max_output_tokens=60)
    call = next(item for item in response.output if item.type == "mcp_call")
    assert call.status == "failed"
    assert call.error is not None and "within 3 s" in call.error.message  # type: ignore[union-attr]
    assert response.status in ("completed", "incomplete")
    assert rounds(response)[1]["path"] == "hit"


def test_max_tool_calls_ends_the_loop(asking: OpenAI, box: Box) -> None:
    response = ask(asking, input=CALLED, tools=[box.tool(10)], max_tool_calls=2, max_output_tokens=200)
    calls = [item for item in response.output if item.type == "mcp_call"]
    assert [call.status for call in calls[:3]] == ["completed", "completed", "failed"]
    assert len(box.calls.made) == 2
    assert response.max_tool_calls == 2


def test_a_tool_of_the_clients_ends_the_turn(asking: OpenAI, box: Box) -> None:
    schema = {"type": "object", "properties": {"step": {"type": "integer"}}}
    # What is scripted knows nothing of grammars.
    mine = {"type": "function", "name": "lookup", "parameters": schema, "strict": False}
    response = ask(asking, input=CALLED, tools=[mine, box.tool(2)])
    # The name is the client's: the server's tool has its label before it.
    assert kinds(response) == ["mcp_list_tools", "reasoning", "function_call"]
    output = {
        "type": "function_call_output",
        "call_id": response.output[-1].call_id,
        "output": f"{LONG} {ANSWER}",
    }  # type: ignore[union-attr]
    done = ask(asking, input=[output], tools=[mine, box.tool(2)], previous_response_id=response.id)
    assert kinds(done)[-1] == "message"


def test_a_client_that_hangs_up_ends_the_call_and_nothing_is_kept(
    asking: OpenAI, box: Box, scripted_vllm_url: str
) -> None:
    started = False

    async def hanging(_: Any) -> Any:
        nonlocal started
        started = True
        await asyncio.sleep(3600)

    lookup = {"name": "lookup", "inputSchema": {"type": "object", "properties": {}}}
    app = made.liar(tools_list={"result": {"tools": [lookup]}}, tools_call=hanging)
    with serving(app) as url:
        tool = {"type": "mcp", "server_label": "slow", "server_url": url, "require_approval": "never"}
        stream = asking.responses.create(model="bench", input=CALLED, tools=[tool], stream=True)
        response_id = next(iter(stream)).response.id  # type: ignore[union-attr]
        for event in stream:
            if event.type == "response.mcp_call_arguments.done":
                break
        while not started:
            time.sleep(0.01)
        stream.close()
    wait_until_idle(scripted_vllm_url)
    answer = httpx.get(f"{asking.base_url}responses/{response_id}", timeout=60)
    assert answer.status_code == 404


def test_nothing_secret_is_in_the_answer_or_kept(asking: OpenAI, box: Box) -> None:
    tool = box.tool(1, headers={"X-Key": "s3cret"}, authorization="t0ken")
    tool["server_url"] += "?key=s3cret"
    response = ask(asking, input=CALLED, tools=[tool])
    for shown in (response, asking.responses.retrieve(response.id)):
        text = shown.model_dump_json()
        assert "s3cret" not in text and "t0ken" not in text
        assert shown.tools[0].server_url.endswith("/<redacted>")  # type: ignore[union-attr]


def test_counting_lists_the_tools_and_calls_none(asking: OpenAI, box: Box) -> None:
    tool = box.tool(1)
    counted = asking.responses.input_tokens.count(model="bench", input=CALLED, tools=[tool])
    response = ask(asking, input=CALLED, tools=[tool])
    first = rounds(response)[0]
    assert counted.input_tokens == first["reused_tokens"] + first["tokenized_tokens"]
    assert len(box.calls.made) == 1
