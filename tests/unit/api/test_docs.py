"""docs/api.md against the SDK's own lists, and against what the server does with a sample of each row."""

import inspect
import json
import re
from typing import Any, get_args, get_type_hints

import httpx
import pytest
from fastapi import FastAPI
from openai.resources.conversations import Conversations, Items
from openai.resources.responses import InputItems, InputTokens, Responses
from openai.types.responses import ResponseIncludable, ResponsesClientEvent, ResponseStreamEvent
from openai.types.responses import response_create_params as create_params
from openai.types.responses.custom_tool_param import CustomToolParam
from openai.types.responses.function_tool_param import FunctionToolParam
from openai.types.responses.input_token_count_params import InputTokenCountParams
from openai.types.responses.response_input_content_param import ResponseInputContentParam
from openai.types.responses.response_input_item_param import ResponseInputItemParam
from openai.types.responses.response_output_message_param import Content as OutputContent
from openai.types.responses.response_text_config_param import ResponseTextConfigParam
from openai.types.responses.responses_client_event import ResponseCreate
from openai.types.responses.tool_param import Mcp, ToolParam
from openai.types.shared_params.reasoning import Reasoning
from pydantic import BaseModel
from starlette.routing import WebSocketRoute

from app.api.requests import CreateResponse, parse_create
from app.api.sampling import VllmFields
from app.api.stream_events import StreamEvent
from app.errors import InvalidRequest, MarginaliaError, SetupError
from app.main import create_app
from tests.unit.api.api_doc import (
    CACHE_OPTIONS,
    CONVERSATIONS,
    CREATE,
    DOC,
    ERRORS,
    EVENTS,
    INCLUDE,
    ITEMS,
    MCP_FIELDS,
    MESSAGE_FIELDS,
    MESSAGES,
    NEVER,
    OURS,
    PARTS,
    REASONING,
    ROUTES,
    STREAM_OPTIONS,
    SUPPORTED,
    TEXT,
    TOOL_CHOICE,
    TOOL_FIELDS,
    TOOLS,
    refused,
)
from tests.unit.api.api_samples import DOES


@pytest.fixture
def app() -> FastAPI:
    return create_app(
        database_url="postgresql://nobody@nowhere/none", worker_urls=[], secret=None, prefix_ttl_seconds=1
    )


# The SDK's lists


def kinds(union: Any) -> set[str]:
    """Values of `type` in a union of the SDK's models or typed dicts, and its plain strings."""
    found: set[str] = set()
    for member in get_args(union) or [union]:
        if isinstance(member, type) and issubclass(member, BaseModel):
            found |= set(strings(member.model_fields["type"].annotation))
        elif isinstance(member, type):
            found |= set(strings(get_type_hints(member).get("type")))
        else:
            found |= set(strings(member))
    return found


def strings(annotation: Any) -> list[str]:
    if isinstance(annotation, str):
        return [annotation]
    return [text for part in get_args(annotation) for text in strings(part)]


def fields(*params: Any) -> set[str]:
    return {name for param in params for name in param.__annotations__}


def methods(resource: type) -> set[str]:
    """What of a resource of the SDK sends something."""
    return {
        name
        for name, value in vars(resource).items()
        if inspect.isfunction(value) and not name.startswith(("_", "with_"))
    }


SDK: list[tuple[str, dict[str, str], set[str]]] = [
    ("create", CREATE, fields(create_params.ResponseCreateParamsBase) | {"stream"}),
    ("include", INCLUDE, set(get_args(ResponseIncludable))),
    ("prompt_cache_options", CACHE_OPTIONS, fields(create_params.PromptCacheOptions)),
    ("reasoning", REASONING, fields(Reasoning)),
    ("text", TEXT, fields(ResponseTextConfigParam)),
    ("stream_options", STREAM_OPTIONS, fields(create_params.StreamOptions)),
    ("tools", TOOLS, kinds(ToolParam)),
    ("tool fields", TOOL_FIELDS, fields(FunctionToolParam, CustomToolParam)),
    ("mcp fields", MCP_FIELDS, fields(Mcp)),
    ("tool_choice", TOOL_CHOICE, kinds(create_params.ToolChoice)),
    ("items", ITEMS, kinds(ResponseInputItemParam)),
    ("parts", PARTS, kinds(ResponseInputContentParam) | kinds(OutputContent)),
    ("events", EVENTS, kinds(get_args(ResponseStreamEvent)[0])),
    ("messages", MESSAGES, kinds(get_args(ResponsesClientEvent)[0])),
    ("fields of messages", MESSAGE_FIELDS, set(ResponseCreate.model_fields) - {"type"} - CREATE.keys()),
    (
        "routes",
        ROUTES,
        methods(Responses)
        | {f"input_items.{name}" for name in methods(InputItems)}
        | {f"input_tokens.{name}" for name in methods(InputTokens)},
    ),
    (
        "conversations",
        CONVERSATIONS,
        methods(Conversations) | {f"items.{name}" for name in methods(Items)},
    ),
]


@pytest.mark.parametrize(("documented", "known"), [row[1:] for row in SDK], ids=[row[0] for row in SDK])
def test_all_that_the_sdk_knows_is_documented(documented: dict[str, str], known: set[str]) -> None:
    assert documented.keys() == known


def test_all_that_is_not_the_sdks_is_documented() -> None:
    assert OURS.keys() == VllmFields.model_fields.keys() | {"caching"}
    fields = CreateResponse.model_fields.keys()
    assert fields <= OURS.keys() | CREATE.keys()
    assert fields >= OURS.keys() | {name for name, here in CREATE.items() if not refused(here)}


def test_counting_takes_what_makes_a_prompt() -> None:
    said = DOC.split("Counting input tokens", 1)[1].split("\n\n", 1)[0]
    assert set(re.findall(r"`(\w+)`", said)) - {"unsupported_parameter"} == fields(InputTokenCountParams)


# What the server does

ROWS = [
    pytest.param(here, sample(name), param.format(name), id=f"{param} {name}")
    for rows, sample, param in DOES
    for name, here in rows.items()
]


@pytest.mark.parametrize(("here", "body", "param"), ROWS)
def test_the_server_does_what_is_documented(here: str, body: dict[str, Any], param: str) -> None:
    request = json.dumps({"input": "x", **body}).encode()
    code = refused(here)
    if code is None:
        parse_create(request, 3600)
        return
    with pytest.raises(InvalidRequest) as caught:
        parse_create(request, 3600)
    assert (caught.value.code, caught.value.param) == (code, param)


@pytest.mark.parametrize("name", [name for name, here in CREATE.items() if refused(here)])
def test_null_is_accepted_where_it_is_documented(name: str) -> None:
    request = json.dumps({"input": "x", name: None}).encode()
    if re.search(rf"^\| `{name}` .*\b[Nn]ull (is|are) accepted \|$", DOC, re.MULTILINE):
        parse_create(request, 3600)
    else:
        with pytest.raises(InvalidRequest):
            parse_create(request, 3600)


def test_the_error_codes_are_those_that_can_come() -> None:
    assert {code: int(status) for code, status in ERRORS.items()} == dict(errors(MarginaliaError))


def errors(kind: type[MarginaliaError]) -> list[tuple[str, int]]:
    """Codes and statuses of an error and what is below it; those of the set-up never go out by HTTP."""
    own = [(kind.code, kind.status)] if kind.code else []
    return own + [e for below in kind.__subclasses__() if below is not SetupError for e in errors(below)]


def test_the_events_are_those_that_the_document_describes() -> None:
    assert set(EVENTS.values()) == {SUPPORTED, NEVER}
    supported = {kind for kind, here in EVENTS.items() if here == SUPPORTED}
    assert supported == kinds(StreamEvent.model_fields["root"].annotation)


@pytest.mark.parametrize(("place", "here"), [*ROUTES.values(), *CONVERSATIONS.values()])
async def test_the_routes_are_those_that_are_there(place: str, here: str, app: FastAPI) -> None:
    """Those that are refused: by no such route, or by one that has no answer but errors."""
    kind, path = place.replace("`", "").split()
    if kind == "WebSocket":
        taken = [route.path for route in app.routes if isinstance(route, WebSocketRoute)]
        assert (here == SUPPORTED) == (path in taken)
        return
    operation = app.openapi()["paths"].get(path, {}).get(kind.lower())
    if here == SUPPORTED:
        assert "200" in operation["responses"]
    elif operation is not None:
        assert "200" not in operation["responses"]
    else:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://s") as http:
            answer = await http.request(kind, path)
        assert here == f"refused: {answer.status_code}"
