"""The OpenAPI document: valid, of all our routes, and true of what the server makes."""

import json
import re
from datetime import UTC, datetime
from typing import Any

import pytest
import schemathesis
from fastapi import FastAPI
from fastapi.routing import APIRoute
from jsonschema import Draft202012Validator

from app.api.errors import envelope
from app.api.requests import parse_create
from app.conversation.engine import Delta, ToolCallDelta
from app.conversation.output import Event
from app.conversation.plan import TurnRequest
from app.conversation.response import failure, new_body
from app.errors import EngineError
from app.main import create_app
from tests.unit.conversation import test_events

Json = dict[str, Any]


@pytest.fixture(scope="module")
def app() -> FastAPI:
    return create_app(
        database_url="postgresql://nobody@nowhere/none", worker_urls=[], secret=None, prefix_ttl_seconds=1
    )


@pytest.fixture(scope="module")
def document(app: FastAPI) -> Json:
    found: Json = app.openapi()
    return found


def test_it_is_openapi_3_1(document: Json) -> None:
    assert document["openapi"] == "3.1.0"
    schemathesis.openapi.from_dict(document).validate()
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_it_has_all_our_routes_and_no_other(app: FastAPI, document: Json) -> None:
    described = {(path, method) for path, operations in document["paths"].items() for method in operations}
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    assert described == {(route.path_format, method.lower()) for route in routes for method in route.methods}


def test_every_reference_leads_somewhere(document: Json) -> None:
    found = set(re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document)))
    assert found <= document["components"]["schemas"].keys()
    assert found >= {"CreateResponse", "CountInputTokens", "Response", "StreamEvent", "Error"}


def test_it_names_every_parameter_with_its_limits(document: Json) -> None:
    parameters = {
        (path, method): {p["name"]: p for p in operation["parameters"]}
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    one, items = "/v1/responses/{response_id}", "/v1/responses/{response_id}/input_items"
    assert parameters["/v1/responses", "get"].keys() == {"after", "limit", "order"}
    assert parameters[one, "get"].keys() == {
        "response_id",
        "include",
        "stream",
        "starting_after",
        "include_obfuscation",
    }
    assert parameters[items, "get"].keys() == {"response_id", "include", "after", "limit", "order"}
    assert parameters[one, "delete"]["response_id"]["required"]
    for path in ("/v1/responses", "/v1/responses/input_tokens"):
        session = parameters[path, "post"]
        assert {name: p["in"] for name, p in session.items()} == {
            "x-session-id": "header",
            "x-session-ttl": "header",
        }
    assert parameters["/v1/contexts", "get"].keys() == {"after", "limit", "order", "name"}
    limit = parameters[items, "get"]["limit"]["schema"]
    assert (limit["minimum"], limit["maximum"], limit["default"]) == (1, 100, 20)
    assert parameters[items, "get"]["order"]["schema"]["enum"] == ["asc", "desc"]
    assert parameters[items, "get"]["after"]["schema"]["type"] == "string"


def test_a_response_can_be_streamed_when_it_is_made_and_afterwards(document: Json) -> None:
    for path, method in (("/v1/responses", "post"), ("/v1/responses/{response_id}", "get")):
        answers = document["paths"][path][method]["responses"]["200"]["content"]
        assert answers.keys() == {"application/json", "text/event-stream"}


REQUEST = {
    "input": "hi",
    "instructions": "Be brief.",
    "tools": [
        {"type": "function", "name": "f", "parameters": {"type": "object"}},
        {"type": "custom", "name": "g", "format": {"type": "grammar", "syntax": "regex", "definition": "x+"}},
    ],
    "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "g"}]},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {}}, "verbosity": "low"},
    "reasoning": {"effort": "high", "summary": "auto"},
    "prompt_cache_options": {"mode": "explicit", "comparison_response_id": "resp_0"},
    "metadata": {"a": "b"},
    "top_logprobs": 2,
}
LOGPROB = {"token": "hi", "logprob": -1.0, "bytes": [104, 105]}
DELTAS = [
    Delta(reasoning="hm"),
    Delta(text="hi", logprobs=({**LOGPROB, "top_logprobs": [LOGPROB]},)),
    Delta(tool_calls=(ToolCallDelta(0, "call_1", "f", "{}"),)),
    Delta(tool_calls=(ToolCallDelta(1, "call_2", "g", "x", custom=True),)),
]


def play(request: TurnRequest, finish_reason: str) -> list[Event]:
    """The events of an answer that has everything."""
    events = test_events.play(DELTAS, finish_reason, request)[0]
    events[-1]["response"]["prompt_cache_diagnostics"] = {"type": "cache_hit"}
    return events


@pytest.mark.parametrize("more", [{}, {"reasoning": {}}, {"input": "hi"}])
@pytest.mark.parametrize("finish_reason", ["stop", "length"])
def test_events_are_as_described(document: Json, more: Json, finish_reason: str) -> None:
    valid = validator(document, "StreamEvent")
    body = more if "input" in more else REQUEST | more
    request, _ = parse_create(json.dumps(body).encode(), 3600)
    events = play(request, finish_reason)
    for event in events:
        valid.validate(event)
    last = events[-1]
    assert not valid.is_valid({**last, "type": "response.cancelled"})
    assert not valid.is_valid({**last, "unheard_of": 1})
    assert not valid.is_valid({**last, "response": {**last["response"], "usage": 3}})
    assert not valid.is_valid({**last, "response": {**last["response"], "output": [{"type": "message"}]}})


def test_a_failure_and_an_error_are_as_described(document: Json) -> None:
    request, _ = parse_create(b'{"input": "hi"}', 3600)
    body = new_body(request, "resp_1", "m", datetime.now(UTC), "full", "new_conversation")
    validator(document, "Response").validate({**body, **failure(EngineError("gone")), "output": []})
    validator(document, "Error").validate(envelope("no", "invalid_request_error", "invalid_value", "input"))


@pytest.mark.parametrize("body", [REQUEST, {"input": [{"role": "user", "content": "hi"}]}])
def test_what_is_accepted_is_as_described(document: Json, body: Json) -> None:
    valid = validator(document, "CreateResponse")
    valid.validate(body)
    assert not valid.is_valid({**body, "conversation": 1})
    valid.validate({"conversation": {"id": "conv_1"}})
    assert not valid.is_valid({**body, "input": 3})
    assert not valid.is_valid({**body, "metadata": {"a": "b" * 513}})


def validator(document: Json, name: str) -> Draft202012Validator:
    return Draft202012Validator(
        {**document["components"]["schemas"][name], "components": document["components"]}
    )
