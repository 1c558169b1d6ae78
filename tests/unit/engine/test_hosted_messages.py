"""Items of MCP tools to chat messages: turn by turn, and round by round, the same as all at once."""

from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.conversation.hosted_turn import settled
from app.conversation.records import Item, Segment
from app.engine import messages
from tests.unit.engine.test_messages import call, said, thought, user

ERROR = {"type": "mcp_protocol_error", "code": -1, "message": "out of paper"}


def request(request_id: str) -> Item:
    return {
        "type": "mcp_approval_request",
        "id": request_id,
        "server_label": "box",
        "name": "look at",
        "arguments": "{}",
    }


def answer(request_id: str, approve: bool) -> Item:
    return {"type": "mcp_approval_response", "approval_request_id": request_id, "approve": approve}


def run(call_id: str, *, of: str | None = None, fails: bool = False) -> Item:
    return {
        "type": "mcp_call",
        "id": call_id,
        "server_label": "box",
        "name": "look at",
        "arguments": "{}",
        "approval_request_id": of,
        "status": "failed" if fails else "completed",
        "output": None if fails else f"{call_id} said so",
        "error": ERROR if fails else None,
    }


U, R = user("hi"), request("r")
YES, NO = answer("r", True), answer("r", False)


@pytest.mark.parametrize(
    ("given", "written", "told"),
    [
        ((YES,), (run("c", of="r"),), "c said so"),
        ((YES,), (run("c", of="r", fails=True),), "The call failed: out of paper"),
        ((NO,), (), "The user did not approve this call: it was not made."),
        ((U,), (), None),
        # The call's item was deleted, or its request's, or there never was one.
        ((YES, U), (), None),
    ],
)
def test_a_request_is_a_call_where_its_output_is_told(
    given: tuple[Item, ...], written: tuple[Item, ...], told: str | None
) -> None:
    made = messages.whole(None, (Segment((U,), (R,)), Segment(given, written)), ())
    assert made == messages.whole(None, (), (U,)) + messages.margin((R,), (*given, *written))
    told_of = [m for m in made if m["role"] != "user"]
    if told is None:
        assert told_of == []
    else:
        function = {"name": "look_at", "arguments": "{}"}
        called = {"id": "r", "type": "function", "function": function}
        assert told_of == [
            {"role": "assistant", "content": "", "tool_calls": [called]},
            {"role": "tool", "tool_call_id": "r", "content": told},
        ]


@pytest.mark.parametrize("approve", [True, False])
def test_an_answer_whose_request_is_not_there_is_nothing(approve: bool) -> None:
    assert messages.margin((), (answer("x", approve), U)) == messages.margin((), (U,))
    assert messages.whole(None, (Segment((U,), (said("a"),)),), (answer("x", approve),))[2:] == []


def test_a_run_whose_request_is_not_there_is_a_call_like_any_other() -> None:
    alone = messages.margin((run("c"),), ())
    assert len(alone) == 2
    assert messages.whole(None, (Segment((YES,), (run("c", of="r"),)),), ()) == alone


@dataclass
class Turn:
    """What one was given, what was run before the model was asked, and each round's items."""

    given: list[Item]
    opening: list[Item]
    rounds: list[list[Item]] = field(default_factory=list)

    @property
    def output(self) -> list[Item]:
        return [*self.opening, *(item for each in self.rounds for item in each)]


@st.composite
def conversations(draw: Any) -> list[Turn]:
    ids, turns, waiting = count(), [], list[Item]()
    for _ in range(draw(st.integers(1, 4))):
        turn = Turn([user("u")] if draw(st.booleans()) else [], [])
        for item in waiting:
            if item["type"] == "function_call":
                turn.given.append(
                    {"type": "function_call_output", "call_id": item["call_id"], "output": "ok"}
                )
            elif (word := draw(st.sampled_from([True, False, None]))) is not None:
                turn.given.append(answer(item["id"], word))
                if word:
                    turn.opening.append(run(f"c{next(ids)}", of=item["id"], fails=draw(st.booleans())))
        waiting = []
        for _ in range(draw(st.integers(1, 3))):
            kinds = draw(st.lists(st.sampled_from(["thought", "said", "run", "ask", "call"]), max_size=4))
            made: dict[str, Any] = {
                "thought": lambda n: thought(n),
                "said": lambda n: said(n),
                "run": lambda n: run(n, fails=draw(st.booleans())),
                "ask": lambda n: request(n),
                "call": lambda n: call(n),
            }
            items = [made[kind](f"{kind}{next(ids)}") for kind in kinds]
            turn.rounds.append(items)
            waiting = [i for i in items if i["type"] in ("mcp_approval_request", "function_call")]
            if waiting or "run" not in kinds:
                break
        turns.append(turn)
    return turns


@given(conversations())
def test_the_prompts_of_all_rounds_add_up_to_the_whole(turns: list[Turn]) -> None:
    """Put together as app.conversation.running does it."""
    made: list[messages.Message] = []
    since: list[Item] = []
    for number, turn in enumerate(turns):
        made += messages.margin(since, (*turn.given, *turn.opening))
        output, told = list(turn.opening), len(turn.opening)
        before = [Segment(tuple(t.given), tuple(t.output)) for t in turns[:number]]
        for place, items in enumerate(turn.rounds):
            whole = messages.whole(None, [*before, Segment(tuple(turn.given), tuple(output[:told]))], ())
            assert whole == made
            output += items
            if place + 1 < len(turn.rounds):
                written = settled(output)
                made += messages.margin(output[told:written], ())
                told = written
        since = output[told:]
