"""The checks themselves: a right stream passes, and each way to break it is found."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.contract import check_event, check_item_list, check_response, check_stream
from tests.contract.recording import Exchange

Event = dict[str, Any]


def response(status: str = "in_progress", output: Any = ()) -> dict[str, Any]:
    usage = {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 9,
    }
    unset = "error incomplete_details instructions max_output_tokens max_tool_calls previous_response_id"
    unset += " prompt_cache_key reasoning safety_identifier service_tier top_logprobs user"
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "m",
        "background": False,
        "metadata": {},
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "top_p": None,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "truncation": "disabled",
        **dict.fromkeys(unset.split()),
        "status": status,
        "completed_at": 2 if status == "completed" else None,
        "usage": usage if status == "completed" else None,
        "output": list(output),
        "caching": {"type": "enabled", "path": "full", "reason": None},
    }


def text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def stream() -> list[Event]:
    """A message of two deltas, then a function call."""
    message = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
    opened: Any = {**message, "status": "in_progress", "content": []}
    message["content"] = [text_part("Good day")]  # type: ignore[assignment]
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "status": "completed"}
    at, call_at = {"item_id": "msg_1", "output_index": 0}, {"item_id": "fc_1", "output_index": 1}
    part: Any = {**at, "content_index": 0}
    text: Any = {**part, "logprobs": []}
    done = {**call, "arguments": "{}"}
    events: list[tuple[str, dict[str, Any]]] = [
        ("created", {"response": response()}),
        ("in_progress", {"response": response()}),
        ("output_item.added", {"output_index": 0, "item": opened}),
        ("content_part.added", {**part, "part": text_part("")}),
        ("output_text.delta", {**text, "delta": "Good "}),
        ("output_text.delta", {**text, "delta": "day"}),
        ("output_text.done", {**text, "text": "Good day"}),
        ("content_part.done", {**part, "part": text_part("Good day")}),
        ("output_item.done", {"output_index": 0, "item": message}),
        (
            "output_item.added",
            {"output_index": 1, "item": {**call, "arguments": "", "status": "in_progress"}},
        ),
        ("function_call_arguments.delta", {**call_at, "delta": "{}"}),
        ("function_call_arguments.done", {**call_at, "arguments": "{}"}),
        ("output_item.done", {"output_index": 1, "item": done}),
        ("completed", {"response": response("completed", [message, done])}),
    ]
    found = [{"type": f"response.{k}", "sequence_number": n, **f} for n, (k, f) in enumerate(events)]
    return copy.deepcopy(found)


def without(events: list[Event], *indexes: int) -> None:
    """Leaves events out and counts the rest anew."""
    events[:] = [event for index, event in enumerate(events) if index not in indexes]
    for number, event in enumerate(events):
        event["sequence_number"] = number


def test_a_right_stream_passes_whole_and_cut() -> None:
    check_stream(stream())
    for length in range(1, len(stream())):
        check_stream(stream()[:length], cut=True)
        with pytest.raises(AssertionError):
            check_stream(stream()[:length])


BREAKAGES: dict[str, Callable[[list[Event]], object]] = {
    "a gap in the numbers": lambda e: e[5].update(sequence_number=9),
    "no in_progress": lambda e: without(e, 1),
    "an event after the end": lambda e: e.append({**e[4], "sequence_number": len(e)}),
    "another response's id": lambda e: e[-1]["response"].update(id="resp_2"),
    "the model changes": lambda e: e[-1]["response"].update(model="n"),
    "an unknown field of an event": lambda e: e[4].update(obfuscation="x"),
    "an unknown field of a response": lambda e: e[0]["response"].update(store=True),
    "an unknown field of an item": lambda e: e[8]["item"].update(colour="red"),
    "an unknown field of a part": lambda e: e[7]["part"].update(colour="red"),
    "a missing field of an event": lambda e: e[4].pop("logprobs"),
    "a missing field of a response": lambda e: e[0]["response"].pop("truncation"),
    "a wrong type": lambda e: e[4].update(output_index="0"),
    "an unknown event": lambda e: e[4].update(type="response.text.delta"),
    "the status of a response": lambda e: e[-1]["response"].update(status="incomplete"),
    "no part opened": lambda e: without(e, 3),
    "no part closed": lambda e: without(e, 7),
    "a delta lost": lambda e: without(e, 5),
    "no text done": lambda e: without(e, 6),
    "no arguments done": lambda e: without(e, 11),
    "an item not done": lambda e: without(e, 12),
    "an item never added": lambda e: without(e, 9),
    "another item's id": lambda e: e[5].update(item_id="msg_2"),
    "an item's id changes": lambda e: e[8]["item"].update(id="msg_2"),
    "another index": lambda e: e[5].update(output_index=1),
    "a gap in the items": lambda e: [event.update(output_index=2) for event in e[9:13]],
    "another part": lambda e: e[5].update(content_index=1),
    "the text of the done part": lambda e: e[7]["part"].update(text="Good"),
    "the text of the done item": lambda e: e[8]["item"]["content"][0].update(text="Good"),
    "the arguments of the done item": lambda e: e[12]["item"].update(arguments="[]"),
    "the final output": lambda e: e[-1]["response"]["output"][0]["content"][0].update(text="Good"),
    "the final output's order": lambda e: e[-1]["response"]["output"].reverse(),
    "log probabilities lost": lambda e: e[4].update(logprobs=[{"token": "Good", "logprob": -1.0}]),
}


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_broken_stream_fails(breakage: str) -> None:
    events = stream()
    BREAKAGES[breakage](events)
    with pytest.raises(AssertionError):
        check_stream(events)


@pytest.mark.parametrize(
    "change",
    [
        {"completed_at": None},
        {"usage": None},
        {"output": []},
        {"tools": [{"type": "function", "name": "f", "parameters": {}, "strict": True, "colour": "red"}]},
        {"tool_choice": {"type": "function", "name": "f", "colour": "red"}},
        {"text": {"format": {"type": "text", "colour": "red"}}},
        {"caching": {"type": "enabled", "path": "lucky", "reason": None}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_broken_response_fails(change: dict[str, Any]) -> None:
    whole = stream()[-1]["response"]
    check_response(whole)
    with pytest.raises(AssertionError):
        check_response({**whole, **change})


def test_a_list_of_items() -> None:
    part = {"type": "input_text", "text": "Hi."}
    item = {"type": "message", "id": "msg_1", "role": "user", "status": "completed", "content": [part]}
    page = {"object": "list", "data": [item], "first_id": "msg_1", "last_id": "msg_1", "has_more": False}
    check_item_list(page)
    for wrong in (
        {"last_id": "msg_2"},
        {"total": 1},
        {"data": [{**item, "id": None}]},
        {"data": [item, item]},
    ):
        with pytest.raises(AssertionError):
            check_item_list({**page, **wrong})


def test_an_error_event_ends_a_stream() -> None:
    error = {"type": "error", "sequence_number": 2, "code": "server_error", "message": "No.", "param": None}
    check_event(error)
    check_stream([*stream()[:2], error])


def test_what_was_written_is_whole_events_each_under_its_own_name() -> None:
    def exchange(*writes: bytes) -> Exchange:
        return Exchange(
            "POST", "/v1/responses", status=200, kind="text/event-stream", writes=list(writes), whole=True
        )

    frames = [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n".encode() for e in stream()]
    exchange(*frames, b": still here\n\n", b"").check()
    exchange(b"".join(frames)).check()
    for wrong in (
        [frames[0][:-9], frames[0][-9:] + b"".join(frames[1:])],
        [*frames, b"data: [DONE]\n\n"],
        [frames[0].replace(b".created", b"", 1)],
    ):
        with pytest.raises(AssertionError):
            exchange(*wrong).check()
