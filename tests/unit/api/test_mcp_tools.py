"""MCP servers and their items in requests: what is accepted, what is repeated, how the rest is refused."""

import json
from typing import Any

import pytest
from openai.types.responses import ResponseItem
from openai.types.responses import Tool as SdkTool
from pydantic import TypeAdapter

from app.api.requests import parse_create
from app.conversation.hosted import McpServer, ToolFilter
from app.conversation.plan import TurnRequest
from app.conversation.request_json import pack, unpack
from app.errors import InvalidRequest
from tests.unit.api.api_samples import ITEM_VALUES, MCP, TOOL

SDK_TOOL: TypeAdapter[Any] = TypeAdapter(SdkTool)
SDK_ITEM: TypeAdapter[Any] = TypeAdapter(ResponseItem)


def turn(**body: Any) -> TurnRequest:
    return parse_create(json.dumps({"input": "hi", **body}).encode(), 3600)[0]


def server(**more: Any) -> McpServer:
    (made,) = turn(tools=[{**MCP, **more}]).mcp
    return made


def test_a_server_is_what_was_asked_for() -> None:
    assert server() == McpServer("box", "https://tools.example/mcp")
    assert server(require_approval="never").approval == "never"
    assert server(allowed_tools=["a"]).allowed == ToolFilter(("a",))
    assert server(allowed_tools={"read_only": True}).allowed == ToolFilter(None, True)
    chosen = server(require_approval={"always": {"tool_names": ["a"]}, "never": {"read_only": True}})
    assert (chosen.approval, chosen.always, chosen.never) == (
        "always",
        ToolFilter(("a",)),
        ToolFilter(None, True),
    )


def test_the_authorization_takes_the_place_of_such_a_header() -> None:
    made = server(headers={"authorization": "Basic x", "X-A": "1"}, authorization="t")
    assert dict(made.headers) == {"X-A": "1", "Authorization": "Bearer t"}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"allowed_tools": ["a"], "require_approval": "never"},
        {"allowed_tools": {"tool_names": ["a"], "read_only": True}, "server_description": "d"},
        {"require_approval": {"always": {"tool_names": ["a"]}}},
    ],
)
def test_what_is_repeated_is_the_sdks_and_has_no_secrets(more: dict[str, Any]) -> None:
    secret = {"headers": {"X-Key": "s3cret"}, "authorization": "s3cret"}
    url = "https://user:s3cret@tools.example:8443/s3cret?key=s3cret"
    (shown,) = turn(tools=[{**MCP, **more, **secret, "server_url": url}]).options.tools
    assert "s3cret" not in json.dumps(shown)
    assert shown["server_url"] == "https://tools.example:8443/<redacted>"
    assert SDK_TOOL.validate_python(shown).model_extra in ({}, None)
    expected = {"require_approval": "always", **more}
    assert {name: shown[name] for name in expected} == expected
    # A client may take the tools of an answer for its next request.
    assert turn(tools=[shown]).mcp[0].label == "box"


LONG = "a" * 65


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"server_url": "ftp://x/y"}, "tools[0].server_url", "invalid_value"),
        ({"server_url": "https://"}, "tools[0].server_url", "invalid_value"),
        ({"server_url": "http://x:99999/"}, "tools[0].server_url", "invalid_value"),
        ({"server_label": "1x"}, "tools[0].server_label", "invalid_value"),
        ({"server_label": LONG}, "tools[0].server_label", "invalid_value"),
        ({"headers": {"Host": "x"}}, "tools[0].headers", "invalid_value"),
        ({"headers": {"X-A": "1\r\nX-B: 2"}}, "tools[0].headers.X-A", "invalid_value"),
        ({"headers": {"X-A": 1}}, "tools[0].headers.X-A", "invalid_type"),
        ({"authorization": "ä"}, "tools[0].authorization", "invalid_value"),
        ({"allowed_tools": {}}, "tools[0].allowed_tools", "invalid_value"),
        ({"allowed_tools": [""]}, "tools[0].allowed_tools[0]", "invalid_value"),
        ({"allowed_tools": {"names": []}}, "tools[0].allowed_tools.names", "unknown_parameter"),
        ({"require_approval": "sometimes"}, "tools[0].require_approval", "invalid_value"),
        ({"require_approval": {"never": {}}}, "tools[0].require_approval.never", "invalid_value"),
        ({"connector_id": "connector_gmail"}, "tools[0].connector_id", "unsupported_parameter"),
        ({"tunnel_id": "t"}, "tools[0].tunnel_id", "unsupported_parameter"),
        ({"defer_loading": True}, "tools[0].defer_loading", "unsupported_parameter"),
        ({"transport": "sse"}, "tools[0].transport", "unknown_parameter"),
    ],
)
def test_refusals_name_the_field(more: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        turn(tools=[{**MCP, **more}])
    assert (caught.value.param, caught.value.code) == (param, code)


def test_a_server_without_an_url_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        turn(tools=[{"type": "mcp", "server_label": "box"}])
    assert (caught.value.param, caught.value.code) == ("tools[0].server_url", "missing_required_parameter")


def test_labels_are_unique_and_servers_few() -> None:
    with pytest.raises(InvalidRequest) as caught:
        turn(tools=[MCP, TOOL, MCP])
    assert caught.value.param == "tools[2].server_label"
    many = [{**MCP, "server_label": f"box{n}"} for n in range(17)]
    assert len(turn(tools=many[:16]).mcp) == 16
    with pytest.raises(InvalidRequest) as caught:
        turn(tools=many)
    assert caught.value.param == "tools"


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "mcp", "server_label": "other"},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "mcp", "server_label": "other"}]},
    ],
)
def test_a_choice_of_a_server_that_is_not_there_is_refused(choice: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        turn(tools=[MCP], tool_choice=choice)
    assert caught.value.param == "tool_choice"


@pytest.mark.parametrize("kind", [name for name in ITEM_VALUES if name.startswith("mcp_")])
def test_items_are_kept_in_a_shape_that_the_sdk_knows(kind: str) -> None:
    (kept,) = turn(input=[{"type": kind, **ITEM_VALUES[kind]}]).input
    assert SDK_ITEM.validate_python(kept).type == kind
    assert kept["id"]


def test_items_that_do_not_fit_are_refused_with_their_place() -> None:
    for more, param in (
        ({"approve": "yes"}, "input[0].approve"),
        ({"approval_request_id": ""}, "input[0].approval_request_id"),
        ({"why": "x"}, "input[0].why"),
    ):
        item = {"type": "mcp_approval_response", "approval_request_id": "r", "approve": True, **more}
        with pytest.raises(InvalidRequest) as caught:
            turn(input=[item])
        assert caught.value.param == param


def test_a_request_can_wait_in_the_database() -> None:
    asked = turn(
        tools=[{**MCP, "headers": {"X-A": "1"}, "allowed_tools": ["a"]}, TOOL],
        tool_choice={"type": "mcp", "server_label": "box"},
        max_tool_calls=3,
    )
    assert asked.max_calls == 3
    assert unpack(pack(asked)) == asked
