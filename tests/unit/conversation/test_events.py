"""Events in the order and shape that the SDK's own types and accumulator expect."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import TypeAdapter

from app.conversation.engine import Delta, Outcome, ToolCallDelta, Usage
from app.conversation.events import EventAssembler
from app.conversation.options import Options
from app.conversation.output import Event
from app.conversation.plan import Caching, TurnRequest
from app.conversation.response import accounts, ending, failure, new_body
from app.conversation.rounds import Rounds
from app.errors import EngineError, InvalidRequest

REQUEST = TurnRequest(
    model=None,
    input=(),
    previous_response_id=None,
    store=True,
    caching=Caching(enabled=True, ttl_s=60),
    options=Options(),
    echo={"metadata": {}},
)


def call(index: int, arguments: str, name: str | None = None) -> Delta:
    call_id = f"call_{index}" if name else None
    return Delta(tool_calls=(ToolCallDelta(index, call_id, name, arguments),))


def play(
    deltas: list[Delta], finish_reason: str = "stop", request: TurnRequest = REQUEST
) -> tuple[list[Event], EventAssembler]:
    body = new_body(request, "resp_1", "m", datetime.now(UTC), "hit", None)
    assembler = EventAssembler(body, summarise=request.summarise)
    events = assembler.start()
    for delta in deltas:
        events += assembler.add(delta)
    end = ending(finish_reason)
    events += assembler.end(end["status"])
    rounds = Rounds()
    rounds.add(Usage(5, 3, 1, 2, 1), Outcome("hit", None, 3, 2))
    body |= end | accounts(request, rounds)
    return [*events, assembler.final()], assembler


ANSWERS: dict[str, list[Delta]] = {
    "text": [Delta(text="Hel"), Delta(text="lo")],
    "nothing": [],
    "reasoning, text, calls": [
        Delta(reasoning="h"),
        Delta(reasoning="m"),
        Delta(text="so"),
        call(0, "", "f"),
        call(0, '{"a"'),
        call(0, ":1}"),
        call(1, "{}", "g"),
    ],
    "text after a call": [call(0, "{}", "f"), Delta(text="done")],
    "all in one delta": [Delta(text="t", reasoning="r", tool_calls=(ToolCallDelta(0, "c", "f", "{}"),))],
}


@pytest.mark.parametrize("name", ANSWERS)
def test_every_event_is_the_sdks(name: str) -> None:
    events, _ = play(ANSWERS[name])
    adapter: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)
    for event in events:
        parsed = adapter.validate_python(event)
        assert not (parsed.model_extra or {}), event["type"]
        if response := event.get("response"):
            assert set(parsed.response.model_extra) == {"caching"}
            assert response["object"] == "response"


@pytest.mark.parametrize("name", ANSWERS)
def test_numbers_ids_and_texts_agree(name: str) -> None:
    events, assembler = play(ANSWERS[name])
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    assert [e["type"] for e in events[:2]] == ["response.created", "response.in_progress"]
    assert events[-1]["type"] == "response.completed"
    assert events[-1]["response"]["output"] == assembler.output
    added = {e["output_index"]: e["item"]["id"] for e in events if e["type"] == "response.output_item.added"}
    done = {e["output_index"]: e["item"] for e in events if e["type"] == "response.output_item.done"}
    assert list(added) == list(range(len(assembler.output)))
    assert {index: item["id"] for index, item in done.items()} == added
    assert [done[i] for i in sorted(done)] == assembler.output
    for index, item in done.items():
        mine = [e for e in events if e.get("output_index") == index]
        joined = "".join(e["delta"] for e in mine if e["type"].endswith(".delta"))
        kept = item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        assert joined == kept
        said = [
            e.get("text", e.get("arguments"))
            for e in mine
            if e["type"].endswith(("text.done", "arguments.done"))
        ]
        assert said == [kept]
        assert all(e["item_id"] == item["id"] for e in mine if "item_id" in e)


def test_an_answer_of_no_tokens_is_an_empty_message() -> None:
    _, assembler = play([])
    assert [(i["type"], i["content"][0]["text"]) for i in assembler.output] == [("message", "")]


def test_a_cut_answer_is_incomplete() -> None:
    events, assembler = play([Delta(reasoning="hm"), Delta(text="He")], finish_reason="length")
    assert events[-1]["type"] == "response.incomplete"
    assert events[-1]["response"]["incomplete_details"] == {"reason": "max_output_tokens"}
    assert [item["status"] for item in assembler.output] == ["completed", "incomplete"]


def test_a_failure_says_why_and_nothing_is_completed() -> None:
    body = new_body(REQUEST, "resp_1", "m", datetime.now(UTC), "hit", None)
    assembler = EventAssembler(body)
    assembler.start()
    body |= failure(EngineError("vLLM broke off"))
    final = assembler.final()
    assert final["response"]["error"]["code"] == "server_error"
    assert failure(InvalidRequest("no"))["error"] == {"code": "invalid_prompt", "message": "no"}
    assert final["type"] == "response.failed"
    assert final["response"]["error"] == {"code": "server_error", "message": "vLLM broke off"}
    assert final["response"]["completed_at"] is None


def test_a_call_that_was_cut_off_is_incomplete_and_a_whole_one_is_not() -> None:
    cut, whole = (
        play([call(0, arguments, "f")], finish_reason="length")[1] for arguments in ('{"a": "b', '{"a": "b"}')
    )
    assert [cut.output[0]["status"], whole.output[0]["status"]] == ["incomplete", "completed"]
    custom = Delta(tool_calls=(ToolCallDelta(0, "c", "sh", "ls", custom=True),))
    assert [play([custom], reason)[1].output[0].get("status") for reason in ("stop", "length")] == [
        None,
        "incomplete",
    ]


def spoken(assembler: EventAssembler) -> list[str]:
    return [
        item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"]
        for item in assembler.output
    ]


@pytest.mark.parametrize(
    ("deltas", "expected"),
    [
        # As vLLM's parsers give them when several tokens come at once: text before the rest of a call.
        (
            [call(0, "{}", "f"), call(1, '{"a": "z', "g"), replace(call(1, '"}'), text="\n")],
            ["{}", '{"a": "z"}'],
        ),
        ([call(0, '{"a', "f"), Delta(text="\n"), call(0, '": 1}'), call(1, "{}", "g")], ['{"a": 1}', "{}"]),
        ([call(0, "{", "f"), replace(call(0, "}"), text="and"), call(1, "{}", "g")], ["{}", "and", "{}"]),
        ([call(0, "{", "f"), Delta(text="and"), call(0, "}")], ["{}", "and"]),
        ([call(0, "{}", "f"), Delta(text="\n"), Delta(text="so")], ["{}", "\nso"]),
        ([call(0, "{}", "f"), Delta(text="\n\n")], ["{}"]),
        ([call(0, "{}", "f"), call(1, "{}", "g"), call(0, "")], ["{}", "{}"]),
        ([Delta(text="a"), Delta(text="\n"), call(0, "{}", "f")], ["a\n", "{}"]),
    ],
)
def test_a_call_is_not_torn_by_text_that_comes_within_it(deltas: list[Delta], expected: list[str]) -> None:
    events, assembler = play(deltas)
    assert spoken(assembler) == expected
    assert all(item["status"] == "completed" for item in assembler.output)
    assert [e["sequence_number"] for e in events] == list(range(len(events)))


def test_a_call_that_is_gone_back_to_is_an_error() -> None:
    with pytest.raises(EngineError, match="went back"):
        play([call(0, "{", "f"), call(1, "{}", "g"), call(0, "}")])


def test_log_probabilities_stay_with_their_text() -> None:
    token = {"token": "hi", "logprob": -0.5, "bytes": [104, 105], "top_logprobs": []}
    _, assembler = play([Delta(reasoning="hm", logprobs=(token, token)), Delta(text="hi", logprobs=(token,))])
    assert assembler.output[1]["content"][0]["logprobs"] == [token]
    _, assembler = play([Delta(reasoning="hm", text="hi", logprobs=(token,))])
    assert assembler.output[1]["content"][0]["logprobs"] == [token]


def test_arguments_that_cannot_be_read_do_no_harm() -> None:
    digits, deep = '{"a": %s}' % ("1" * 5000), '{"a": %s}' % ("[" * 5000 + "]" * 5000)
    for arguments in (digits, deep):
        assert spoken(play([call(0, arguments, "f")])[1]) == [arguments]
