"""Turns whose tools are called here, on fake servers and a scripted model."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from app.conversation.approvals import approved, check_approvals
from app.conversation.engine import Delta, Generation, Margin, ToolCallDelta, Usage, Whole
from app.conversation.hosted import McpServer, ServerTool, ToolFilter, ToolServerError
from app.conversation.options import Options
from app.conversation.output import Event
from app.conversation.plan import Caching, TurnRequest
from app.conversation.records import DEFAULT_TENANT, Item
from app.engine import messages
from app.engine.bodies import stock_body
from app.errors import InvalidRequest
from app.store.memory import MemoryResponseStore
from tests.unit.conversation.hosted import FakeToolServers, tool
from tests.unit.conversation.test_turns import (
    CHECKPOINT,
    Chat,
    ScriptedAnswer,
    ScriptedWorker,
    request,
)

EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
BOX = McpServer("box", "http://box", approval="never")
MINE = {"type": "function", "name": "mine", "description": None, "parameters": {}, "strict": True}


def calls(*made: tuple[str, str], text: str = "") -> tuple[Delta, ...]:
    """One answer with these calls."""
    deltas = tuple(
        Delta(tool_calls=(ToolCallDelta(index, f"call_{index}", name, arguments),))
        for index, (name, arguments) in enumerate(made)
    )
    return (*([Delta(text=text)] if text else []), *deltas, Delta(finish_reason="tool_calls"))


SAID = (Delta(text="It is done."), Delta(finish_reason="stop"))
LOOK = calls(("look", '{"at": 1}'))


class RoundsWorker(ScriptedWorker):
    """Gives each prompt the next of its answers, and a reference of its own."""

    def __init__(self, *answers: tuple[Delta, ...]) -> None:
        super().__init__()
        self.answers = list(answers)

    @asynccontextmanager
    async def answer(self, generation: Generation, prompt: Margin | Whole) -> AsyncIterator[ScriptedAnswer]:
        self.deltas = self.answers.pop(0)
        self.checkpoint = replace(CHECKPOINT, ref=f"ref {len(self.prompts)}")
        self.usage = Usage(input_tokens=10, output_tokens=5)
        async with super().answer(generation, prompt) as answer:
            yield answer


class Loop(Chat):
    def __init__(self, *answers: tuple[Delta, ...], tools: tuple[ServerTool, ...] = ()) -> None:
        super().__init__(MemoryResponseStore())
        self.servers = FakeToolServers(*tools)
        self.worker = RoundsWorker(*answers)
        self.turns._engine, self.turns._tool_servers = self.worker, self.servers

    async def asked(
        self, previous: str | None = None, *, mcp: Any = (BOX,), **changes: Any
    ) -> dict[str, Any]:
        """The response; what a turn sent is compared with a full render of what it kept."""
        events = await self.turn(asking(previous, mcp=mcp, **changes))
        check_events(events)
        response: dict[str, Any] = events[-1]["response"]
        assert self.servers.open == 0
        await self.check_prompts(response)
        return response

    async def check_prompts(self, response: dict[str, Any]) -> None:
        """Every prompt, put together of margins, is the beginning of the whole conversation's."""
        history = await self.store.history(DEFAULT_TENANT, response["id"])
        whole = messages.whole(None, history, ())
        sent: dict[str, list[Any]] = {}
        for number, prompt in enumerate(self.worker.prompts):
            if isinstance(prompt, Margin):
                new = messages.margin(prompt.parent_output, prompt.new_input)
                made = sent[prompt.checkpoint.ref] + new
            else:
                made = messages.whole(None, prompt.history, prompt.new_input)
            sent[f"ref {number}"] = made
        assert whole[: len(made)] == made


def asking(previous: str | None = None, *, mcp: Any = (BOX,), **changes: Any) -> TurnRequest:
    shown = tuple({"type": "mcp", "server_label": server.label} for server in mcp)
    changes = {"options": Options(tools=shown), **changes}
    return request(previous, mcp=mcp, **changes)


def check_events(events: list[Event]) -> None:
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    opened: dict[int, str] = {}
    done: dict[int, Item] = {}
    for event in events:
        parsed = EVENT.validate_python(event)
        assert not (parsed.model_extra or {}), event["type"]
        at = event.get("output_index")
        if event["type"] == "response.output_item.added":
            assert at == len(opened)
            opened[at] = event["item"]["id"]
        elif event["type"] == "response.output_item.done":
            assert at not in done and opened[at] == event["item"]["id"]
            done[at] = event["item"]
        elif at is not None:
            assert event["item_id"] == opened[at] and at not in done
    assert [done[at] for at in range(len(opened))] == events[-1]["response"]["output"]


def kinds(response: dict[str, Any]) -> list[str]:
    return [item["type"] for item in response["output"]]


def called(response: dict[str, Any]) -> list[Item]:
    return [item for item in response["output"] if item["type"] == "mcp_call"]


async def test_calls_are_run_and_each_round_continues_by_reference() -> None:
    loop = Loop(LOOK, LOOK, SAID)
    response = await loop.asked()
    assert kinds(response) == ["mcp_list_tools", "mcp_call", "mcp_call", "message"]
    assert [call["output"] for call in called(response)] == ["look said 1", "look said 2"]
    assert loop.servers.calls == [("box", "look", {"at": 1})] * 2
    rounds = response["caching"]["rounds"]
    assert [(one["path"], one["output_index"]) for one in rounds] == [("full", 0), ("hit", 2), ("hit", 3)]
    assert response["usage"]["output_tokens"] == 15
    prompts = loop.worker.prompts
    assert [type(prompt).__name__ for prompt in prompts] == ["Whole", "Margin", "Margin"]
    assert [prompt.checkpoint.ref for prompt in prompts[1:]] == ["ref 0", "ref 1"]  # type: ignore[union-attr]
    assert [len(prompt.parent_output) for prompt in prompts[1:]] == [2, 1]  # type: ignore[union-attr]


async def test_the_next_turn_sends_what_the_last_rounds_prompt_did_not_have() -> None:
    loop = Loop(LOOK, SAID, SAID)
    first = await loop.asked()
    second = await loop.asked(first["id"])
    assert second["caching"]["path"] == "hit"
    margin = loop.worker.prompts[-1]
    assert isinstance(margin, Margin)
    assert [item["type"] for item in margin.parent_output] == ["message"]


async def test_tools_are_told_once_and_again_where_they_could_not_be_listed() -> None:
    loop = Loop(SAID, SAID, SAID, SAID, SAID)
    loop.servers.down = {"box"}
    first = await loop.asked()
    assert first["output"][0]["error"] == "It is down."
    loop.servers.down = set()
    second = await loop.asked(first["id"])
    assert [tool["name"] for tool in second["output"][0]["tools"]] == ["look"]
    third = await loop.asked(second["id"])
    assert kinds(third) == ["message"]
    loop.servers.down = {"box"}
    fourth = await loop.asked(third["id"])
    assert (kinds(fourth), fourth["output"][0]["error"]) == (["mcp_list_tools", "message"], "It is down.")
    told = {**second["output"][0], "error": None}
    loop.servers.down = set()
    assert kinds(await loop.asked(input=(told, *request().input))) == ["message"]


async def test_a_server_that_is_down_takes_no_other_with_it() -> None:
    loop = Loop(LOOK, SAID)
    loop.servers.down = {"other"}
    response = await loop.asked(mcp=(replace(BOX, label="other"), BOX))
    assert [item.get("error") for item in response["output"][:2]] == ["It is down.", None]
    assert called(response)[0]["server_label"] == "box"


async def test_calls_of_one_round_run_at_once_and_are_told_in_order() -> None:
    loop = Loop(calls(("slow", "{}"), ("quick", "{}")), SAID, tools=(tool("slow"), tool("quick")))
    quick_ran = asyncio.Event()

    async def slow(_: Any) -> str:
        await quick_ran.wait()
        return "slow"

    async def quick(_: Any) -> str:
        quick_ran.set()
        return "quick"

    loop.servers.does = {"slow": slow, "quick": quick}
    response = await loop.asked()
    assert [call["output"] for call in called(response)] == ["slow", "quick"]


@pytest.mark.parametrize("kind", ["mcp_protocol_error", "mcp_tool_execution_error", "http_error"])
async def test_a_call_that_fails_is_told_to_the_model_and_the_turn_goes_on(kind: Any) -> None:
    loop = Loop(LOOK, SAID)

    async def fails(_: Any) -> str:
        raise ToolServerError("out of paper", kind, 500)

    loop.servers.does = {"look": fails}
    response = await loop.asked()
    (call,) = called(response)
    assert (call["status"], call["output"], call["error"]["type"]) == ("failed", None, kind)
    assert response["status"] == "completed"
    margin = loop.worker.prompts[-1]
    assert isinstance(margin, Margin)
    assert "out of paper" in messages.margin(margin.parent_output, ())[-1]["content"]


@pytest.mark.parametrize("arguments", ['{"at', "[1]", "nothing"])
async def test_arguments_that_are_no_object_fail_the_call(arguments: str) -> None:
    for server in (BOX, replace(BOX, approval="always")):
        loop = Loop(calls(("look", arguments)), SAID)
        response = await loop.asked(mcp=(server,))
        (call,) = called(response)
        assert (call["status"], call["arguments"]) == ("failed", arguments)
        assert call["error"]["message"] == "The arguments are no JSON object."
        assert not loop.servers.calls


async def test_an_answer_that_is_cut_off_runs_nothing() -> None:
    cut = (*calls(("look", "{}"), ("look", '{"at'))[:2], Delta(finish_reason="length"))
    loop = Loop(cut, SAID)
    response = await loop.asked()
    assert response["status"] == "incomplete"
    assert [call["status"] for call in called(response)] == ["incomplete", "incomplete"]
    assert not loop.servers.calls
    assert messages.margin(response["output"], ()) == []
    assert (await loop.asked(response["id"]))["caching"]["path"] == "hit"


async def test_text_after_a_call_comes_with_the_next_margin() -> None:
    both = (*LOOK[:-1], Delta(text="I called."), Delta(finish_reason="stop"))
    loop = Loop(both, both, SAID, SAID)
    response = await loop.asked()
    assert kinds(response) == ["mcp_list_tools", *["mcp_call", "message"] * 2, "message"]
    assert await loop.asked(response["id"])


async def test_the_tokens_of_all_rounds_count_against_the_limit() -> None:
    loop = Loop(LOOK, LOOK, LOOK)
    response = await loop.asked(options=Options(max_output_tokens=12))
    limits = [generation.options.max_output_tokens for generation in loop.worker.generations]
    assert limits == [12, 7, 2]
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert (response["status"], response["completed_at"]) == ("incomplete", None)


async def test_what_is_sampled_at_least_is_no_more_than_what_is_left() -> None:
    loop = Loop(LOOK, LOOK, SAID)
    await loop.asked(options=Options(max_output_tokens=12, extras={"min_tokens": 4, "seed": 1}))
    extras = [generation.options.extras for generation in loop.worker.generations]
    assert extras == [{"min_tokens": least, "seed": 1} for least in (4, 4, 2)]


async def test_no_more_calls_than_max_tool_calls_are_run_and_the_model_is_told_once() -> None:
    loop = Loop(calls(("look", "{}"), ("look", "{}")), LOOK, LOOK, SAID)
    response = await loop.asked(max_calls=1)
    assert [call["status"] for call in called(response)] == ["completed", "failed", "failed"]
    assert "limit" in called(response)[1]["error"]["message"]
    assert len(loop.servers.calls) == 1
    assert response["status"] == "completed"


async def test_a_call_of_the_clients_ends_the_turn_and_is_rendered_after_those_that_were_run() -> None:
    mixed = calls(("mine", "{}"), ("look", "{}"))
    loop = Loop(mixed, SAID)
    first = await loop.asked(options=Options(tools=(MINE,)))
    assert kinds(first) == ["mcp_list_tools", "function_call", "mcp_call"]
    output = {"type": "function_call_output", "call_id": "call_0", "output": "ok"}
    second = await loop.asked(first["id"], input=(output,), options=Options(tools=(MINE,)))
    assert second["caching"]["path"] == "hit"
    made = loop.worker.prompts[-1]
    assert isinstance(made, Margin)
    rendered = messages.margin(made.parent_output, made.new_input)
    names = [m["tool_calls"][0]["function"]["name"] if "tool_calls" in m else m["role"] for m in rendered]
    assert names == ["look", "tool", "mine", "tool"]


ASKS = replace(BOX, approval="always")


def answer(request: Item, approve: bool, **more: Any) -> Item:
    return {
        "type": "mcp_approval_response",
        "id": "mcpa_1",
        "approval_request_id": request["id"],
        "approve": approve,
        **more,
    }


async def test_a_call_that_needs_approval_waits_for_it_and_then_is_run_first() -> None:
    loop = Loop(LOOK, LOOK, SAID)
    first = await loop.asked(mcp=(ASKS,))
    assert kinds(first) == ["mcp_list_tools", "mcp_approval_request"]
    asked = first["output"][1]
    assert (asked["name"], asked["arguments"], asked["server_label"]) == ("look", '{"at": 1}', "box")
    second = await loop.asked(first["id"], mcp=(ASKS,), input=(answer(asked, True), *request().input))
    assert kinds(second) == ["mcp_call", "mcp_approval_request"]
    assert second["output"][0]["approval_request_id"] == asked["id"]
    assert loop.servers.calls == [("box", "look", {"at": 1})]
    assert second["caching"]["rounds"][0]["output_index"] == 1
    third = await loop.asked(second["id"], mcp=(ASKS,), input=(answer(second["output"][1], True),))
    assert kinds(third) == ["mcp_call", "message"]
    margins = [prompt for prompt in loop.worker.prompts if isinstance(prompt, Margin)]
    assert len(margins) == 2
    assert [m["role"] for m in messages.margin(margins[0].parent_output, margins[0].new_input)] == [
        "assistant",
        "tool",
        "user",
    ]


async def test_a_denied_call_is_not_run_and_the_model_knows_why() -> None:
    loop = Loop(LOOK, SAID)
    first = await loop.asked(mcp=(ASKS,))
    no = answer(first["output"][1], False, reason="Too dear.")
    assert kinds(await loop.asked(first["id"], mcp=(ASKS,), input=(no,))) == ["message"]
    assert not loop.servers.calls
    margin = loop.worker.prompts[-1]
    assert isinstance(margin, Margin)
    told = messages.margin(margin.parent_output, margin.new_input)[-1]
    assert told["content"] == "The user did not approve this call: it was not made. Too dear."


async def test_a_request_that_nobody_answers_is_nothing() -> None:
    loop = Loop(calls(("look", "{}"), text="Let me see."), SAID)
    first = await loop.asked(mcp=(ASKS,))
    await loop.asked(first["id"], mcp=(ASKS,))
    margin = loop.worker.prompts[-1]
    assert isinstance(margin, Margin)
    rendered = messages.margin(margin.parent_output, margin.new_input)
    assert rendered[0] == {"role": "assistant", "content": "Let me see."}


async def test_truncation_does_not_part_a_request_from_its_answer() -> None:
    loop = Loop(SAID, LOOK, SAID)
    first = await loop.turn(asking(mcp=(ASKS,)))
    asked = (await loop.turn(asking(first[-1]["response"]["id"], mcp=(ASKS,))))[-1]["response"]
    given = (*request().input, answer(asked["output"][0], False))
    again = asking(asked["id"], mcp=(ASKS,), input=given, truncate=True, caching=Caching(False, 60))
    loop.worker.answers = [SAID] * 4
    loop.worker.room = 4
    assert (await loop.turn(again))[-1]["type"] == "response.completed"
    made = loop.worker.prompts[-1]
    assert isinstance(made, Whole)
    kept = [item["type"] for segment in made.history for item in segment.input_items]
    assert kept == ["message", "mcp_approval_request", "message", "mcp_approval_response"]
    loop.worker.room = 3
    assert (await loop.turn(again))[-1]["type"] == "response.failed"


async def test_answers_without_a_request_are_refused() -> None:
    loop = Loop(LOOK, SAID)
    first = await loop.asked(mcp=(ASKS,))
    asked = first["output"][1]
    for given, place in (
        ((answer({"id": "mcpr_x"}, True),), 0),
        ((answer(asked, False), answer(asked, True)), 1),
    ):
        with pytest.raises(InvalidRequest) as caught:
            await loop.turn(asking(first["id"], mcp=(ASKS,), input=given))
        assert caught.value.param == f"input[{place}].approval_request_id"
    for servers in ((replace(ASKS, label="x"),), ()):
        with pytest.raises(InvalidRequest) as caught:
            await loop.turn(asking(first["id"], mcp=servers, input=(answer(asked, True),)))
        assert caught.value.param == "tools"
        assert "'box'" in str(caught.value)
    # What is not run needs no server.
    assert (await loop.asked(first["id"], mcp=(), input=(answer(asked, False),)))["status"] == "completed"


def test_what_was_added_to_a_conversation_answers_a_request_once() -> None:
    waits = {"type": "mcp_approval_request", "id": "r", "server_label": "box"}
    yes, no = answer(waits, True), answer(waits, False)
    for pending in ((yes, yes), (yes, no)):
        with pytest.raises(InvalidRequest) as caught:
            check_approvals((waits,), (), pending)
        assert caught.value.param == "conversation"
    with pytest.raises(InvalidRequest) as caught:
        check_approvals((waits,), (yes,), (no,), first=2)
    assert caught.value.param == "input[2].approval_request_id"
    check_approvals((), (), (waits, yes))
    check_approvals((), (), (yes,))  # its request was deleted
    assert approved((waits,), (yes, yes)) == (waits,)


async def test_a_client_that_keeps_the_conversation_gets_the_same_prompts() -> None:
    loop = Loop(LOOK, LOOK, SAID, SAID)
    first = await loop.asked(mcp=(ASKS,))
    items = [*request().input, *first["output"], answer(first["output"][1], True)]
    second = await loop.asked(mcp=(ASKS,), input=tuple(items))
    assert kinds(second) == ["mcp_call", "mcp_approval_request"]
    items += [*second["output"], answer(second["output"][1], True)]
    third = await loop.asked(mcp=(ASKS,), input=tuple(items))
    assert kinds(third) == ["mcp_call", "message"]
    assert len(loop.servers.calls) == 2, "a call that was run is not run again"
    items += third["output"]
    await loop.asked(mcp=(ASKS,), input=(*items, *request().input))
    made = loop.worker.prompts[-1]
    assert isinstance(made, Whole)
    roles = [m["role"] for m in messages.whole(None, made.history, made.new_input)]
    assert roles == ["user", *["assistant", "tool"] * 2, "assistant", "user"]


FILTERS = [
    (McpServer("b", "u"), {"read": True, "write": True}),
    (McpServer("b", "u", approval="never"), {"read": False, "write": False}),
    (McpServer("b", "u", never=ToolFilter(read_only=True)), {"read": False, "write": True}),
    (
        McpServer("b", "u", always=ToolFilter(("read",)), never=ToolFilter(("read", "write"))),
        {"read": True, "write": False},
    ),
]


@pytest.mark.parametrize(("server", "asks"), FILTERS)
def test_which_tools_need_an_approval(server: McpServer, asks: dict[str, bool]) -> None:
    tools = (tool("read", read_only=True), tool("write"))
    assert {t.name: server.needs_approval(t) for t in tools} == asks


async def test_only_allowed_tools_are_offered() -> None:
    loop = Loop(SAID, tools=(tool("read", read_only=True), tool("write")))
    await loop.asked(mcp=(replace(BOX, allowed=ToolFilter(read_only=True)),))
    (offered,) = loop.worker.generations[-1].options.offered_tools
    assert offered["name"] == "read"


def test_nothing_of_a_server_reaches_the_engine_before_it_was_listed() -> None:
    assert Options(tools=({"type": "mcp", "server_label": "box"}, MINE)).offered_tools == (MINE,)


async def test_names_that_are_taken_get_their_servers_label() -> None:
    mine = {**MINE, "name": "look"}
    other = replace(BOX, label="other")
    loop = Loop(
        calls(("other__odd_name", "{}"), ("box__look", "{}")), SAID, tools=(tool("look"), tool("odd name"))
    )
    response = await loop.asked(mcp=(BOX, other), options=Options(tools=(mine,)))
    offered = [t["name"] for t in loop.worker.generations[0].options.offered_tools]
    assert offered == ["look", "box__look", "box__odd_name", "other__look", "other__odd_name"]
    assert [(c["server_label"], c["name"]) for c in called(response)] == [
        ("other", "odd name"),
        ("box", "look"),
    ]
    margin = loop.worker.prompts[-1]
    assert isinstance(margin, Margin)
    rendered = messages.margin(margin.parent_output, ())
    names = [m["tool_calls"][0]["function"]["name"] for m in rendered if "tool_calls" in m]
    assert names == ["odd_name", "look"], "what was said does not change with the tools of a turn"


async def test_a_call_has_one_name_whatever_tools_the_turns_have() -> None:
    loop = Loop(LOOK, SAID, SAID, SAID)
    first = await loop.asked()
    both = (BOX, replace(BOX, label="other"))
    second = await loop.asked(first["id"], mcp=both)
    assert second["caching"]["path"] == "hit"
    offered = [t["name"] for t in loop.worker.generations[-1].options.offered_tools]
    assert offered == ["box__look", "other__look"]
    await loop.asked(second["id"], mcp=both, caching=Caching(False, 60))
    generation, full = loop.worker.generations[-1], loop.worker.prompts[-1]
    assert isinstance(full, Whole)
    sent = stock_body(generation, full)["messages"]
    assert [m["tool_calls"][0]["function"]["name"] for m in sent if "tool_calls" in m] == ["look"]


NAMED = {"type": "mcp", "server_label": "box", "name": "look"}
ANY = {"type": "mcp", "server_label": "box", "name": None}
LOOKED = {"type": "function", "name": "look"}
CHOICES = [
    ("required", "required", "auto"),
    ("none", "none", "none"),
    (NAMED, LOOKED, "auto"),
    (
        ANY,
        {"type": "allowed_tools", "mode": "required", "tools": [LOOKED]},
        {"type": "allowed_tools", "mode": "auto", "tools": [LOOKED]},
    ),
    (
        {"type": "allowed_tools", "mode": "required", "tools": [ANY, {"type": "function", "name": "mine"}]},
        {
            "type": "allowed_tools",
            "mode": "required",
            "tools": [LOOKED, {"type": "function", "name": "mine"}],
        },
        {"type": "allowed_tools", "mode": "auto", "tools": [LOOKED, {"type": "function", "name": "mine"}]},
    ),
    ({**NAMED, "server_label": "gone"}, "auto", "auto"),
]


@pytest.mark.parametrize(("choice", "first", "then"), CHOICES)
async def test_a_choice_of_tools_is_one_of_functions_and_forces_one_round(
    choice: Any, first: Any, then: Any
) -> None:
    loop = Loop(LOOK, SAID)
    response = await loop.asked(options=Options(tools=(MINE,), tool_choice=choice))
    assert [g.options.tool_choice for g in loop.worker.generations] == [first, then]
    assert response["tool_choice"] == choice


async def test_a_turn_that_breaks_off_keeps_nothing_and_closes_its_sessions() -> None:
    loop = Loop(LOOK, SAID)
    loop.worker.answers[1] = ()
    loop.worker.breaks_off = True
    events = await loop.turn(asking())
    assert events[-1]["type"] == "response.failed"
    assert loop.servers.open == 0
    assert await loop.store.get(DEFAULT_TENANT, events[-1]["response"]["id"]) is None


async def test_a_client_that_leaves_cancels_the_calls() -> None:
    loop = Loop(calls(("look", "{}"), ("look", "{}")), SAID)
    reached, left = asyncio.Event(), 0

    async def hangs(_: Any) -> str:
        nonlocal left
        reached.set()
        try:
            await asyncio.sleep(3600)
        finally:
            left += 1
        return ""

    loop.servers.does = {"look": hangs}
    running = await loop.turns.start(asking(), DEFAULT_TENANT)

    async def read() -> None:
        async for _ in running.events():
            pass

    reading = asyncio.create_task(read())
    await reached.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await running.aclose()
    assert left == 2
    assert loop.servers.open == 0


async def test_counting_lists_and_calls_nothing() -> None:
    loop = Loop()
    assert await loop.turns.count(asking(), DEFAULT_TENANT) == 1
    assert loop.servers.open == 0


def test_json_of_errors_is_openais() -> None:
    from openai.types.responses import McpToolCallError

    adapter: TypeAdapter[Any] = TypeAdapter(McpToolCallError)
    for kind in ("mcp_protocol_error", "mcp_tool_execution_error", "http_error"):
        error = ToolServerError("oh", kind, 5)  # type: ignore[arg-type]
        assert not adapter.validate_python(error.as_json()).model_extra
        json.dumps(error.as_json())
