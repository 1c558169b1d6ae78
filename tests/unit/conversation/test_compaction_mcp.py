"""Compactions of turns that list tools of MCP servers and run approved calls before the model is asked."""

from typing import Any

from app.conversation.compacting import options_of
from app.conversation.compaction import INSTRUCTION, PAUSE, Compacted, goes_on, opener
from app.conversation.engine import Delta, Whole
from app.conversation.options import Options
from app.conversation.records import DEFAULT_TENANT, Item
from app.conversation.sealing import Sealing
from tests.unit.conversation.test_compaction import TOOL, answer, summary, texts, thought, user
from tests.unit.conversation.test_hosted_turn import ASKS, LOOK, SAID, Loop, asking, kinds

ASKED = f"user: {INSTRUCTION}"
SUMMARY = (Delta(text="in short"), Delta(finish_reason="stop"))


def approval(item: Item) -> Item:
    return {
        "type": "mcp_approval_response",
        "id": "mcpa_1",
        "approval_request_id": item["id"],
        "approve": True,
    }


async def kept(loop: Loop, compaction: Item) -> tuple[Item, ...]:
    opened = await opener(Sealing(loop.store), DEFAULT_TENANT)
    found: Compacted = opened(compaction)
    return found.kept


async def response(loop: Loop, previous: str | None = None, **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = (await loop.turn(asking(previous, **changes)))[-1]["response"]
    return made


async def test_the_newest_question_goes_on_word_for_word() -> None:
    loop = Loop(SAID, SUMMARY, SAID)
    first = await response(loop, mcp=())
    second = await response(loop, first["id"], input=(user("newest"),), compact_at=1)
    assert kinds(second) == ["mcp_list_tools", "compaction", "message"]
    assert await kept(loop, second["output"][1]) == (user("newest"),)
    asked = [texts(prompt.new_input) for prompt in loop.worker.prompts]
    assert [new for new in asked if ASKED in new] == [[ASKED]]
    whole = loop.worker.prompts[-1]
    assert isinstance(whole, Whole)
    assert (whole.history, texts(whole.new_input)) == ((), [f"user: {summary('in short')}\n\nnewest"])


async def test_a_first_turn_is_not_compacted() -> None:
    first = await response(Loop(SAID), compact_at=1)
    assert kinds(first) == ["mcp_list_tools", "message"]


async def test_an_approved_call_goes_on_with_its_approval_and_the_newest_input() -> None:
    loop = Loop(SAID, LOOK, SUMMARY, SAID)
    first = await response(loop, mcp=(ASKS,))
    second = await response(loop, first["id"], mcp=(ASKS,), input=(user("look"),))
    request = second["output"][-1]
    said = (approval(request), user("newest"))
    third = await response(loop, second["id"], mcp=(ASKS,), input=said, compact_at=1)
    assert kinds(third) == ["mcp_call", "compaction", "message"]
    call = third["output"][0]
    assert await kept(loop, third["output"][1]) == (user("look"), request, *said, call)[1:]
    asked = [texts(prompt.new_input) for prompt in loop.worker.prompts]
    assert [new[-2:] for new in asked if ASKED in new] == [[f"assistant: {PAUSE}", ASKED]]


def test_a_call_that_nobody_was_asked_about_is_the_models() -> None:
    request = {"type": "mcp_approval_request", "id": "mcpr_1"}
    call = {"type": "mcp_call", "approval_request_id": None}
    assert goes_on([user(), call]) == 2
    assert goes_on([user(), answer(), user(), thought(), request, approval(request), run(request)]) == 3
    assert goes_on([user(), request, approval(request), run(request), answer(), user()]) == 5


def run(request: Item) -> Item:
    return {"type": "mcp_call", "approval_request_id": request["id"]}


def test_no_tool_is_to_be_called_for_a_summary() -> None:
    """Those of MCP servers are not there at all."""
    hosted = {"type": "mcp", "server_label": "box"}
    other = {**TOOL, "name": "g"}
    body = {"instructions": None, "tools": [TOOL, hosted, other], "text": {"verbosity": "medium"}}

    def options(choice: Any) -> Options:
        return options_of({**body, "tool_choice": choice}, Options())

    assert options(hosted) == options({"type": "function", "name": "f"})
    assert options(hosted) == Options(tools=(TOOL, other), tool_choice="none")
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]}
    assert options(allowed) == Options(tools=(TOOL,), tool_choice="none")
