"""The WebSocket at `/v1/responses` on real vLLM: by the OpenAI SDK, and by `websockets` for what that never
sends."""

import json
import socket
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, NotFoundError, OpenAI
from openai.resources.responses.responses import ResponsesConnection
from openai.types.responses import Response
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync import client as sockets
from websockets.sync.client import ClientConnection

from app.api.body import MAX_BODY_BYTES
from app.main import create_app
from app.store.database import Database
from bench.stack import MODEL
from tests.contract import check_response, check_stream
from tests.e2e.service import wait_until
from tests.e2e.stack import SECRET, ask, path, running_requests, sdk, serving, wait_until_idle

SHORT: dict[str, Any] = {"temperature": 0, "max_output_tokens": 12}
ENDS = {"response.completed", "response.incomplete", "response.failed"}
LOOKUP: Any = {
    "type": "function",
    "name": "lookup",
    "parameters": {
        "type": "object",
        "properties": {"step": {"type": "integer"}},
        "required": ["step"],
        "additionalProperties": False,
    },
}
Json = dict[str, Any]

connect = partial(sockets.connect, open_timeout=60)


@pytest.fixture
def connection(client: OpenAI) -> Iterator[ResponsesConnection]:
    with client.responses.connect() as connection:
        yield connection


def final(connection: ResponsesConnection) -> Response:
    """Of the response that runs, with nothing beside it."""
    events = []
    for event in connection:
        assert event.type != "error", event
        events.append(event)
        if event.type in ENDS:
            break
    assert [event.sequence_number for event in events] == list(range(len(events)))  # type: ignore[union-attr]
    assert events[-1].type in ("response.completed", "response.incomplete"), events[-1]
    return events[-1].response  # type: ignore[union-attr]


def say(
    connection: ResponsesConnection, question: Any, previous: str | None = None, **fields: Any
) -> Response:
    """One greedy turn."""
    fields = {"previous_response_id": previous, **SHORT, **fields}
    connection.response.create(input=question, **fields)
    return final(connection)


@pytest.fixture
def url(service_url: str) -> str:
    return service_url.replace("http", "ws", 1) + "/v1/responses"


@pytest.fixture
def raw(url: str) -> Iterator[ClientConnection]:
    with connect(url, max_size=None) as connected:
        yield connected


def create(raw: ClientConnection, question: Any, **fields: Any) -> None:
    asked = {"input": question, **SHORT, **fields}
    raw.send(json.dumps({"type": "response.create", **asked}))


def frame(raw: ClientConnection) -> Json:
    received: Json = json.loads(raw.recv(timeout=60))
    return received


def events_of(raw: ClientConnection) -> list[Json]:
    """Up to the end of the response that runs, or an error."""
    events = [frame(raw)]
    while events[-1]["type"] not in ENDS | {"error"}:
        events.append(frame(raw))
    return events


def answered(raw: ClientConnection, question: Any, **fields: Any) -> Json:
    create(raw, question, **fields)
    response: Json = events_of(raw)[-1]["response"]
    return response


def refusal(raw: ClientConnection) -> tuple[int, str | None, str | None]:
    """Status, code and param of the error that comes next."""
    event = frame(raw)
    assert event["type"] == "error", event
    assert event["error"].keys() == {"type", "code", "message", "param"}
    return event["status"], event["error"]["code"], event["error"]["param"]


def lose(raw: ClientConnection) -> None:
    """As a network does, with no word of goodbye."""
    raw.socket.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ConnectionClosed):
        while True:
            raw.recv(timeout=30)


# Turns


def test_the_events_are_those_of_a_stream(client: OpenAI, raw: ClientConnection) -> None:
    create(raw, "Name a river.")
    events = events_of(raw)
    asked: Any = {"input": "Name a river.", **SHORT}
    check_stream(events)
    check_response(events[-1]["response"])
    streamed = [event.to_dict() for event in client.responses.create(**asked, stream=True)]
    assert kinds(events) == kinds(streamed)
    assert text(events[-1]["response"]) == text(streamed[-1]["response"])  # type: ignore[arg-type]
    assert "stream_id" not in events[0]


def kinds(events: Iterable[Any]) -> list[str]:
    """Types, of deltas in a row one: how they are cut is vLLM's timing."""
    types = [event["type"] for event in events]
    return [kind for before, kind in zip([None, *types], types, strict=False) if kind != before]


def text(response: Json) -> str:
    return "".join(part["text"] for item in response["output"] for part in item["content"])


def test_what_is_stored_is_continued_on_the_socket_and_beside_it(
    client: OpenAI, connection: ResponsesConnection, opening: str
) -> None:
    first = say(connection, opening)
    assert path(first) == ("full", "new_conversation")
    second = say(connection, "What is my name?", first.id)
    assert path(second) == ("hit", None)
    assert second.output_text == ask(client, "What is my name?", first.id, **SHORT).output_text
    assert client.responses.retrieve(second.id).output_text == second.output_text
    assert path(ask(client, "Thanks.", second.id)) == ("hit", None)
    over_http = ask(client, "Name a river.")
    assert path(say(connection, "Another one.", over_http.id)) == ("hit", None)


async def test_the_sdks_async_client(service_url: str, opening: str) -> None:
    async with (
        AsyncOpenAI(base_url=f"{service_url}/v1", api_key="unused") as client,
        client.responses.connect() as connection,
    ):
        previous = None
        for question in (opening, "What is my name?"):
            await connection.response.create(
                input=question, previous_response_id=previous, max_output_tokens=12, store=False
            )
            async for event in connection:
                if event.type in ENDS:
                    break
            previous = event.response.id  # type: ignore[union-attr]
    assert path(event.response) == ("hit", None)  # type: ignore[union-attr]


def test_calls_of_tools_go_round_by_reference(
    scripted_vllm_url: str, client_for: Callable[..., OpenAI]
) -> None:
    with client_for(scripted_vllm_url).responses.connect() as connection:
        fields: Any = {"model": MODEL, "tools": [LOOKUP], "store": False, "max_output_tokens": 400}
        response = say(connection, "Begin. [[call 1]]", **fields)
        filler = "and so on " * 30  # Only the last words say what comes next.
        for then in (f"{filler} [[call 2]]", f"{filler} [[answer]]"):
            (call,) = [item for item in response.output if item.type == "function_call"]
            output = {"type": "function_call_output", "call_id": call.call_id, "output": then}
            response = say(connection, [output], response.id, **fields)
            assert path(response) == ("hit", None)
        assert response.output_text.strip() == "It is done."


# What is not stored


def test_what_is_not_stored_is_continued_by_reference(
    client: OpenAI, connection: ResponsesConnection, opening: str
) -> None:
    first = say(connection, opening, store=False)
    second = say(connection, "What is my name?", first.id, store=False)
    third = say(connection, "Thanks.", second.id, store=False)
    again = say(connection, "Thanks.", first.id, store=False)
    assert [path(r) for r in (second, third, again)] == [("hit", None)] * 3
    stored = ask(client, opening, **SHORT)
    assert second.output_text == ask(client, "What is my name?", stored.id, **SHORT).output_text
    for response in (first, second, third):
        with pytest.raises(NotFoundError):
            client.responses.retrieve(response.id)


def test_a_history_that_is_not_stored_is_rendered_whole(
    connection: ResponsesConnection, opening: str
) -> None:
    first = say(connection, opening)
    second = say(connection, "Name a river.", first.id, store=False)
    third = say(connection, "Another one.", second.id, store=False)
    by_reference = say(connection, "And one more.", third.id, store=False)
    disabled: Any = {"type": "response.create", "input": "And one more.", "previous_response_id": third.id}
    disabled |= {**SHORT, "store": False, "caching": {"type": "disabled"}}
    connection.send(disabled)
    whole = final(connection)
    assert path(whole) == ("full", "caching_disabled")
    assert whole.usage and by_reference.usage
    assert whole.usage.input_tokens == by_reference.usage.input_tokens
    assert whole.output_text == by_reference.output_text


def test_what_is_stored_cannot_continue_what_is_not(raw: ClientConnection, opening: str) -> None:
    first = answered(raw, opening, store=False)
    create(raw, "What is my name?", previous_response_id=first["id"])
    assert refusal(raw) == (400, "invalid_value", "store")
    second = answered(raw, "What is my name?", previous_response_id=first["id"], store=False)
    assert second["caching"]["path"] == "hit"


def test_items_that_are_not_stored_can_be_referred_to(raw: ClientConnection, opening: str) -> None:
    first = answered(raw, opening, store=False)
    item = {"type": "item_reference", "id": first["output"][0]["id"]}
    question = {"role": "user", "content": "Say that again."}
    referring = answered(raw, [item, question], store=False)
    written = answered(raw, [first["output"][0], question], store=False)
    assert referring["usage"]["input_tokens"] == written["usage"]["input_tokens"]


def test_sockets_do_not_share_what_is_not_stored(
    client: OpenAI, connection: ResponsesConnection, raw: ClientConnection, opening: str
) -> None:
    first = say(connection, opening, store=False)
    create(raw, "What is my name?", previous_response_id=first.id, store=False)
    assert refusal(raw) == (400, "previous_response_not_found", "previous_response_id")
    assert path(say(connection, "What is my name?", first.id, store=False)) == ("hit", None)


def test_a_client_that_was_cut_off_sends_all_and_is_found_by_content(url: str, opening: str) -> None:
    with closing(connect(url)) as lost:
        first = answered(lost, opening, store=False)
        lose(lost)
    with connect(url) as raw:
        create(raw, "What is my name?", previous_response_id=first["id"], store=False)
        event = frame(raw)
        assert event == {
            "type": "error",
            "status": 400,
            "error": {
                "type": "invalid_request_error",
                "code": "previous_response_not_found",
                "message": f"Previous response with id '{first['id']}' not found.",
                "param": "previous_response_id",
            },
        }
        second = answered(raw, as_input(opening, first), store=False)
        assert (second["caching"]["path"], second["caching"]["reason"]) == ("hit", "found_by_content")
        third = answered(raw, "Thanks.", previous_response_id=second["id"], store=False)
        assert third["caching"]["path"] == "hit"


def as_input(opening: str, first: Json) -> list[Json]:
    """The whole conversation, as a client has it, with the next question."""
    question = {"role": "user", "content": "What is my name?"}
    return [{"role": "user", "content": opening}, *first["output"], question]


def test_of_a_client_that_said_goodbye_nothing_is_kept(url: str, opening: str) -> None:
    with connect(url) as raw:
        first = answered(raw, opening, store=False)

    def again() -> str:
        with connect(url) as raw:
            second = answered(raw, as_input(opening, first), store=False, max_output_tokens=2)
        path: str = second["caching"]["path"]
        return path

    assert wait_until(lambda: again() == "full", 30)


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize("how", [{"generate": False}, {"prompt_cache_options": {"prewarm": True}}])
def test_a_prefix_is_prepared_and_then_continued(
    client: OpenAI, connection: ResponsesConnection, opening: str, how: Any, store: bool
) -> None:
    prepared = say(connection, f"{opening} Remember it.", store=store, **how)
    assert (prepared.status, prepared.output) == ("completed", [])
    second = say(connection, "What is my name?", prepared.id, store=store)
    assert path(second) == ("hit", None)
    assert second.output_text
    third = say(connection, "Thanks.", prepared.id, store=store, generate=True)
    assert path(third) == ("hit", None)


def test_a_context_in_the_handshake_is_every_turns(client: OpenAI, opening: str) -> None:
    asked = {"instructions": f"{opening} You are brief.", "ttl": 60}
    context: Any = client.post("/contexts", body=asked, cast_to=object)
    with client.responses.connect(extra_headers={"x-session-id": context["id"]}) as connection:
        first = say(connection, "Name a river.", store=False)
        assert (path(first), first.previous_response_id) == (("hit", None), context["response_id"])
        assert path(say(connection, "Another one.", first.id, store=False)) == ("hit", None)
    with client.responses.connect(extra_headers={"x-session-id": "ctx_none"}) as connection:
        connection.response.create(input="x")
        error: Any = connection.recv()
        assert (error.status, error.error.code, error.error.param) == (404, "not_found", "x-session-id")


# Several at once


def test_lanes_run_beside_each_other(client: OpenAI, connection: ResponsesConnection) -> None:
    questions = {"planner": "Name a river.", "research.2": "Count to five.", "_c-": "Say hello."}
    for lane, question in questions.items():
        connection.response.create(
            input=question, stream_id=lane, temperature=0, max_output_tokens=40, store=False
        )
    by_lane = defaultdict[str, list[Any]](list)
    order = []
    while len([events for events in by_lane.values() if events[-1].type in ENDS]) < len(questions):
        event = connection.recv()
        by_lane[event.stream_id or ""].append(event)
        order.append(event.stream_id)
    assert by_lane.keys() == questions.keys()
    for lane, events in by_lane.items():
        assert [event.sequence_number for event in events] == list(range(len(events)))
        alone = ask(client, questions[lane], max_output_tokens=40)
        assert events[-1].response.output_text == alone.output_text
    first_end = min(order.index(lane) + len(by_lane[lane]) for lane in questions)
    assert len(set(order[:first_end])) > 1, "they waited for each other"


def test_a_lane_forks_from_another(connection: ResponsesConnection, opening: str) -> None:
    parent = say(connection, opening, store=False, stream_id="main")
    for lane in ("main", "critic"):
        connection.response.create(
            input="What is my name?",
            previous_response_id=parent.id,
            stream_id=lane,
            store=False,
            temperature=0,
            max_output_tokens=12,
        )
    ends = {}
    while len(ends) < 2:
        event = connection.recv()
        assert event.type != "error", event
        if event.type in ENDS:
            ends[event.stream_id] = event.response  # type: ignore[union-attr]
    assert {path(response) for response in ends.values()} == {("hit", None)}
    assert len({response.output_text for response in ends.values()}) == 1


@pytest.mark.parametrize("lane", [{}, {"stream_id": "a"}])
def test_a_lane_works_off_one_after_the_other(raw: ClientConnection, lane: Json) -> None:
    for _ in range(3):
        create(raw, "Name a river.", store=False, **lane)
    for _ in range(3):
        events = events_of(raw)
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        assert {event.get("stream_id") for event in events} == {lane.get("stream_id")}


# Errors


REFUSED: list[tuple[Any, tuple[int, str, str | None]]] = [
    ("{", (400, "invalid_json", None)),
    ('{"a":' + "[" * 100_000, (400, "invalid_json", None)),
    ("[]", (400, "invalid_value", None)),
    (b"\xff", (400, "invalid_json", None)),
    ({"input": "x"}, (400, "missing_required_parameter", "type")),
    ({"type": "response.cancel"}, (400, "invalid_value", "type")),
    ({"type": ["response.create"], "input": "x"}, (400, "invalid_value", "type")),
    ({"type": "response.create"}, (400, "missing_required_parameter", "input")),
    ({"type": "response.create", "input": "x", "nope": 1}, (400, "unknown_parameter", "nope")),
    ({"type": "response.create", "input": 7}, (400, "invalid_type", "input")),
    ({"type": "response.create", "input": "x", "top_p": 7}, (400, "invalid_value", "top_p")),
    (
        {"type": "response.create", "input": "x", "background": True},
        (400, "unsupported_parameter", "background"),
    ),
    (
        {"type": "response.create", "input": "x", "model": "nope"},
        (404, "model_not_found", "model"),
    ),
    (
        {"type": "response.create", "input": "word " * 9000},
        (400, "context_length_exceeded", "input"),
    ),
    (
        {"type": "response.create", "input": "x", "previous_response_id": "resp_0"},
        (400, "previous_response_not_found", "previous_response_id"),
    ),
    *(
        (
            {"type": "response.create", "input": "x", "stream_id": name},
            (400, "invalid_stream_id", "stream_id"),
        )
        for name in ("", "a b", "ä", "x" * 257, 1, {})
    ),
    (
        {"type": "response.steer", "input": "x"},
        (400, "missing_required_parameter", "previous_response_id"),
    ),
]


def test_an_error_leaves_the_socket_as_it_was(raw: ClientConnection) -> None:
    first = answered(raw, "Name a river.", store=False)
    for message, refused in REFUSED:
        raw.send(json.dumps(message) if isinstance(message, dict) else message)
        assert refusal(raw) == refused, str(message)[:100]
    second = answered(raw, "Another one.", previous_response_id=first["id"], store=False)
    assert second["caching"]["path"] == "hit"


def test_an_error_says_whose_it_is_and_others_go_on(raw: ClientConnection) -> None:
    create(raw, "Write a story.", stream_id="a", max_output_tokens=60)
    create(raw, "x", stream_id="b", top_p=7)
    create(raw, "Name a river.", stream_id="b")
    events = []
    while len([event for event in events if event["type"] in ENDS]) < 2:
        events.append(frame(raw))
    (error,) = [event for event in events if event["type"] == "error"]
    assert (error["stream_id"], error["error"]["param"]) == ("b", "top_p")
    assert {event["stream_id"] for event in events if event["type"] in ENDS} == {"a", "b"}


def test_what_is_a_bodys_and_not_a_messages_does_no_harm(raw: ClientConnection) -> None:
    fields: Json = {"stream": False, "background": False, "stream_options": {"include_obfuscation": False}}
    assert answered(raw, "Name a river.", **fields, generate=None, stream_id=None)["status"] != "failed"
    assert answered(raw, "Name a river.", stream=True)["status"] != "failed"


def test_a_response_cannot_be_steered(connection: ResponsesConnection) -> None:
    connection.response.create(input="Write a story.", max_output_tokens=40, store=False)
    created = connection.recv()
    connection.response.steer(
        input="Shorter.",
        previous_response_id=created.response.id,  # type: ignore[union-attr]
    )
    events = [connection.recv()]
    while not ({e.type for e in events} & ENDS and any(e.type == "response.steer.failed" for e in events)):
        events.append(connection.recv())
    (failed,) = [event for event in events if event.type == "response.steer.failed"]
    assert (failed.error.code, failed.steer.input) == ("steering_not_supported", "Shorter.")


def test_a_long_message_is_read_and_a_longer_one_refused(raw: ClientConnection) -> None:
    long = "x" * (20 << 20)
    create(raw, "x", metadata={"a": long})
    assert refusal(raw) == (400, "invalid_value", "metadata")
    raw.send("x" * (MAX_BODY_BYTES + 1))
    assert refusal(raw) == (413, "request_too_large", None)
    assert answered(raw, "Name a river.")["status"] != "failed"


def test_vllm_cannot_be_reached(client_for: Callable[..., OpenAI]) -> None:
    base = str(client_for("http://127.0.0.1:9").base_url).replace("http", "ws", 1)
    with connect(f"{base}responses") as raw:
        for _ in range(2):
            create(raw, "x", stream_id="a")
            event = frame(raw)
            assert (event["status"], event["error"]["code"]) == (503, "engine_unavailable")
            assert event["stream_id"] == "a"


# The connection


@pytest.mark.parametrize("goodbye", [True, False])
def test_a_client_that_hangs_up_aborts_what_runs(
    client: OpenAI, url: str, vllm_url: str, goodbye: bool
) -> None:
    with closing(connect(url)) as raw:
        for lane in "ab":
            create(raw, "Count to a thousand.", stream_id=lane, max_output_tokens=4000, ignore_eos=True)
        create(raw, "Count to a thousand.", stream_id="a", max_output_tokens=4000, ignore_eos=True)
        ids: dict[str, str] = {}
        while len(ids) < 2 or running_requests(vllm_url) < 2:
            event = frame(raw)
            if event["type"] == "response.created":
                ids[event["stream_id"]] = event["response"]["id"]
        if not goodbye:
            lose(raw)
    wait_until_idle(vllm_url)
    for response_id in ids.values():
        with pytest.raises(NotFoundError):
            client.responses.retrieve(response_id)


def test_a_server_that_stops_says_so(database: Database, vllm_url: str) -> None:
    dsn = database.engine.url.render_as_string(hide_password=False)
    app = create_app(database_url=dsn, worker_urls=[vllm_url], secret=SECRET, prefix_ttl_seconds=3600)
    with serving(app) as service, sdk(service):
        raw = connect(service.replace("http", "ws", 1) + "/v1/responses")
        create(raw, "Count to a thousand.", max_output_tokens=4000, ignore_eos=True)
        assert frame(raw)["type"] == "response.created"
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            raw.recv(timeout=30)
    assert closed.value.rcvd and closed.value.rcvd.code == 1012
    wait_until_idle(vllm_url)


def test_only_pages_of_the_server_itself_may_connect(service_url: str, url: str) -> None:
    for origin in ("http://elsewhere.example", "null", service_url.replace("127.0.0.1", "localhost")):
        with pytest.raises(InvalidStatus) as refused:
            connect(url, origin=origin)  # type: ignore[arg-type]
        answer = refused.value.response
        assert answer.status_code == 403
        assert json.loads(answer.body)["error"]["code"] == "foreign_origin"
    with connect(url, origin=service_url) as raw:  # type: ignore[arg-type]
        assert answered(raw, "Name a river.")["status"] != "failed"


def test_without_a_handshake_there_is_a_list(service_url: str) -> None:
    assert httpx.get(f"{service_url}/v1/responses", timeout=60).json()["object"] == "list"
