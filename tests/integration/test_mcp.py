"""The adapter to MCP servers against real ones, and against some that hang, lie or say too much."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import pytest
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp

from app.conversation.hosted import McpServer, ToolServerError
from app.mcp.results import MAX_OUTPUT_BYTES
from app.mcp.servers import McpToolServers, Sessions
from tests import mcp_servers as made
from tests.e2e.stack import serving

PATIENCE_S = 60.0
SOON_S = 3.0
"""Of servers that never answer."""
STALL_S = 15.0
"""Of servers that answer some calls and others never: more than a machine stalls."""


class Started:
    """Servers that end with the test."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.calls = made.Calls()

    def __call__(self, app: ASGIApp, path: str = "/mcp", label: str = "box", **more: Any) -> McpServer:
        return McpServer(label, self._stack.enter_context(serving(app)) + path, **more)

    def toolbox(self, **more: Any) -> McpServer:
        return self(made.streamable(made.toolbox(self.calls)), **more)


@pytest.fixture
def started() -> Iterator[Started]:
    with ExitStack() as stack:
        yield Started(stack)


@asynccontextmanager
async def sessions(
    call_s: float = PATIENCE_S, listing_s: float = PATIENCE_S, **settings: Any
) -> AsyncIterator[Sessions]:
    servers = McpToolServers(call_s, listing_s=listing_s, **settings)
    async with servers.turn() as turn:
        yield turn
    await servers.aclose()


def patient(turn: Sessions) -> Sessions:
    """With servers that it has not met yet."""
    turn._listing_s = turn._call_s = PATIENCE_S
    return turn


async def refusal(asked: Any) -> ToolServerError:
    with pytest.raises(ToolServerError) as caught:
        await asked
    return caught.value


@pytest.mark.parametrize("transport", ["streamable", "stateless", "json", "sse"])
async def test_tools_are_listed_and_called_whatever_the_transport(transport: str, started: Started) -> None:
    box = made.toolbox(started.calls)
    if transport == "sse":
        server = started(made.sse(box), "/sse")
    else:
        settings = {"stateless": {"stateless_http": True}, "json": {"json_response": True}}
        server = started(made.streamable(box, **settings.get(transport, {})))
    async with sessions() as turn:
        tools = {tool.name: tool for tool in await turn.tools(server)}
        assert await turn.call(server, "lookup", {"step": 1}) == "Step 1 is known. [[call 2]]"
        assert await turn.call(server, "lookup", {"step": 2}) == "Step 2 is known. [[call 3]]"
    assert tools["lookup"].description == "Looks a step up."
    assert tools["lookup"].input_schema["properties"]["step"]["type"] == "integer"
    assert (tools["lookup"].read_only, tools["fail"].read_only) == (True, False)
    assert started.calls.made == [("lookup", {"step": 1}), ("lookup", {"step": 2})]


async def test_a_tool_that_fails_says_why(started: Started) -> None:
    async with sessions() as turn:
        error = await refusal(turn.call(started.toolbox(), "fail", {"why": "no paper"}))
    assert error.kind == "mcp_tool_execution_error"
    assert "no paper" in error.as_json()["content"][0]["text"]


async def test_what_is_no_text_is_named_and_what_is_structured_is_json(started: Started) -> None:
    server = started.toolbox()
    async with sessions() as turn:
        assert await turn.call(server, "picture", {}) == "Look:\n[image of type image/png: not shown]"
        assert '"grams": 2000.0' in await turn.call(server, "weigh", {"kilograms": 2})


async def test_an_output_that_is_too_long_is_cut(started: Started) -> None:
    server = started(made.liar(tools_call=lambda _: said("ä" * 100_000)))
    async with sessions() as turn:
        text = await turn.call(server, "lie", {})
    assert MAX_OUTPUT_BYTES <= len(text.encode()) < MAX_OUTPUT_BYTES + 100
    assert text.endswith("[Cut: this is the beginning of 200000 bytes.]")


async def test_a_flood_fails_the_call_and_the_next_call_has_a_new_session(started: Started) -> None:
    server = started.toolbox()
    async with sessions() as turn:
        error = await refusal(turn.call(server, "flood", {"megabytes": 20}))
        assert error.kind == "mcp_protocol_error"
        assert await turn.call(server, "lookup", {"step": 1})


async def test_a_flood_without_events_is_not_read_to_its_end(started: Started) -> None:
    async def flood() -> AsyncIterator[bytes]:
        for _ in range(4096):
            yield b" " * (1 << 16)

    server = started(
        made.liar(tools_call=lambda _: StreamingResponse(flood(), media_type="application/json"))
    )
    async with sessions() as turn:
        error = await refusal(turn.call(server, "lie", {}))
    assert error.message == "The server sent more than is read of one."


async def test_a_call_that_hangs_is_given_up_and_others_go_on(started: Started) -> None:
    server = started.toolbox()
    async with sessions(STALL_S) as turn:
        assert await turn.tools(server)
        hanging = asyncio.create_task(refusal(turn.call(server, "hang", {})))
        assert await turn.call(server, "lookup", {"step": 1})
        error = await hanging
        assert error.message == f"The server did not answer the call within {STALL_S:g} s."
        assert await turn.call(server, "lookup", {"step": 2})


async def test_a_call_that_is_cancelled_is_cancelled_at_the_server(started: Started) -> None:
    server = started.toolbox()
    async with sessions() as turn:
        calling = asyncio.create_task(turn.call(server, "hang", {}))
        # The server is in another thread.
        assert await asyncio.to_thread(started.calls.reached.wait, PATIENCE_S)
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
    assert await asyncio.to_thread(started.calls.left.wait, PATIENCE_S), "the server goes on"


async def test_a_server_that_never_answers_is_given_up(started: Started) -> None:
    async def never(_: Any) -> Any:
        await asyncio.sleep(3600)

    for method in ("initialize", "tools_list"):
        server = started(made.liar(**{method: never}), label=method)
        async with sessions(listing_s=SOON_S) as turn:
            error = await refusal(turn.tools(server))
        assert f"within {SOON_S:g} s" in error.message


async def test_a_server_that_is_not_there_is_an_error() -> None:
    async with sessions() as turn:
        error = await refusal(turn.tools(McpServer("gone", "http://127.0.0.1:9/mcp")))
    assert error.message == "The server cannot be reached (ConnectError)."


async def test_pages_are_read_to_the_last_and_no_further(started: Started) -> None:
    async with sessions() as turn:
        tools = await turn.tools(started(made.paged(5)))
        assert [tool.name for tool in tools] == [f"tool_{n}" for n in range(5)]
        endless = started(made.paged(0, endless=True), label="endless")
        assert "does not end" in (await refusal(turn.tools(endless))).message


@pytest.mark.parametrize("old", [False, True])
async def test_the_authorization_is_sent_and_needed(old: bool, started: Started) -> None:
    box = made.toolbox(started.calls)
    app, path = (made.sse(box), "/sse") if old else (made.streamable(box), "/mcp")
    unknown = started(made.guarded(app, "s3cret"), path, label="unknown")
    known = McpServer("known", unknown.url, headers=(("Authorization", "Bearer s3cret"),))
    async with sessions() as turn:
        assert await turn.tools(known)
        error = await refusal(turn.tools(unknown))
    assert (error.kind, error.code) == ("http_error", 401)


async def test_redirects_to_elsewhere_are_not_followed(started: Started) -> None:
    aim = started.toolbox()
    async with sessions() as turn:
        error = await refusal(turn.tools(started(made.redirecting(aim.url), label="other")))
    assert (error.kind, error.code) == ("http_error", 307)


async def test_hosts_that_are_not_allowed_are_not_connected_to(started: Started) -> None:
    server = started.toolbox()
    port = server.url.split(":")[2].split("/")[0]
    async with sessions(allowed_hosts=frozenset({"tools.example"})) as turn:
        assert "MCP_ALLOWED_HOSTS" in (await refusal(turn.tools(server))).message
    for allowed in ("127.0.0.1", f"127.0.0.1:{port}"):
        async with sessions(allowed_hosts=frozenset({allowed})) as turn:
            assert await turn.tools(server)


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"result": {"content": [{"type": "text", "text": text}], **more}}


def listed(**tool: Any) -> dict[str, Any]:
    return {"result": {"tools": [{"name": "lie", "inputSchema": {"type": "object"}, **tool}]}}


LIES: dict[str, dict[str, Any]] = {
    "no JSON": {"tools_list": Response("hello", media_type="application/json")},
    "no JSON-RPC": {"tools_list": Response('{"tools": []}', media_type="application/json")},
    "another content": {"tools_list": Response("<html>", media_type="text/html")},
    "a server's error": {"tools_list": Response("oh", 500)},
    "tools that are none": {"tools_list": {"result": {"tools": "many"}}},
    "a schema that is none": {"tools_list": listed(inputSchema="object")},
    "a schema of no object": {"tools_list": listed(inputSchema={"type": "string"})},
    "a number that is none": {
        "tools_list": lambda m: Response(
            f'{{"jsonrpc": "2.0", "id": {m["id"]}, "result": '
            '{"tools": [{"name": "lie", "inputSchema": {"type": "object", "maximum": 1e999}}]}}',
            media_type="application/json",
        )
    },
    "a number of many digits": {
        "tools_list": listed(inputSchema={"type": "object", "properties": {"a": {"maximum": 10**40}}})
    },
    "many tools of some size": {
        "tools_list": {
            "result": {
                "tools": [
                    {"name": f"t{n}", "inputSchema": {"type": "object", "title": "x" * 60_000}}
                    for n in range(20)
                ]
            }
        }
    },
    "a schema too large": {
        "tools_list": listed(inputSchema={"type": "object", "description": "x" * 100_000})
    },
    "too many tools": {
        "tools_list": {
            "result": {"tools": [{"name": f"t{n}", "inputSchema": {"type": "object"}} for n in range(600)]}
        }
    },
    "an unknown version": {"initialize": {"result": {**made.INITIALIZED["result"], "protocolVersion": "1"}}},
    "compressed": {
        "tools_list": Response(b"x", media_type="application/json", headers={"content-encoding": "gzip"})
    },
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_listing_that_lies_is_an_error_of_that_server(lie: str, started: Started) -> None:
    async with sessions(2.0, listing_s=10.0) as turn:
        error = await refusal(turn.tools(started(made.liar(**LIES[lie]))))
        assert error.message
        assert await patient(turn).tools(started.toolbox(label="honest"))


CALL_LIES: dict[str, Any] = {
    "no content": {"result": {}},
    "unknown content": {"result": {"content": [{"type": "hologram"}]}},
    "an error": {"error": {"code": -32000, "message": "out of order"}},
    "another's answer": Response(
        '{"jsonrpc": "2.0", "id": 999999, "result": {"content": []}}', media_type="application/json"
    ),
    "nothing": Response(status_code=202),
    "an event that is none": Response("event: message\ndata: {]\n\n", media_type="text/event-stream"),
    "no event": Response("", media_type="text/event-stream"),
    "closed": Response(status_code=404),
}


@pytest.mark.parametrize("lie", CALL_LIES)
async def test_an_answer_that_lies_fails_that_call(lie: str, started: Started) -> None:
    # Some answers never come.
    async with sessions(PATIENCE_S if lie == "an error" else 2.0) as turn:
        server = started(made.liar(tools_call=CALL_LIES[lie]))
        error = await refusal(turn.call(server, "lie", {}))
        assert error.message and error.kind in ("mcp_protocol_error", "http_error")
        assert await patient(turn).call(started.toolbox(label="honest"), "lookup", {"step": 1})
    if lie == "an error":
        assert error.as_json() == {"type": "mcp_protocol_error", "code": -32000, "message": "out of order"}


async def test_an_error_without_words_has_some(started: Started) -> None:
    server = started(made.liar(tools_call={"result": {"content": [], "isError": True}}))
    async with sessions() as turn:
        error = await refusal(turn.call(server, "lie", {}))
    assert error.message == "The tool failed and did not say why."


async def test_surrogates_that_are_half_are_no_text(started: Started) -> None:
    raw = '{"jsonrpc": "2.0", "id": %s, "result": {"content": [{"type": "text", "text": "a\\ud800b"}]}}'
    server = started(made.liar(tools_call=lambda m: Response(raw % m["id"], media_type="application/json")))
    async with sessions(2.0) as turn:
        try:
            text = await turn.call(server, "lie", {})
        except ToolServerError:
            return
    text.encode()
