"""Real MCP servers for tests, made with the official SDK, and some that only look like one."""

import asyncio
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from mcp.server.lowlevel import Server
from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import (
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.texts import ANSWER, CALL

READ_ONLY = ToolAnnotations(read_only_hint=True)


@dataclass
class Calls:
    """What a server was asked to run."""

    made: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    reached: threading.Event = field(default_factory=threading.Event)
    """Once a call hangs; `left` once it was cancelled."""
    left: threading.Event = field(default_factory=threading.Event)


def toolbox(calls: Calls, *, rounds: int = 10, name: str = "toolbox") -> MCPServer:
    """`lookup` tells the scripted model to call it again until `rounds`, and then to answer."""
    server = MCPServer(name)

    @server.tool(annotations=READ_ONLY)
    def lookup(step: int) -> str:
        """Looks a step up."""
        calls.made.append(("lookup", {"step": step}))
        return f"Step {step} is known. {f'{CALL} {step + 1}]]' if step < rounds else ANSWER}"

    @server.tool()
    def fail(why: str) -> str:
        """Fails."""
        raise ToolError(why)

    @server.tool()
    async def hang() -> str:
        """Never comes back."""
        calls.reached.set()
        try:
            await asyncio.sleep(3600)
        finally:
            calls.left.set()
        return "never"

    @server.tool()
    def flood(megabytes: int) -> str:
        """Says too much."""
        return "ä" * (megabytes << 19)

    @server.tool(structured_output=False)
    def picture() -> list[Any]:
        """Shows something."""
        return ["Look:", Image(data=b"\x89PNG", format="png")]

    @server.tool()
    def weigh(kilograms: float) -> dict[str, float]:
        """Structured."""
        return {"grams": kilograms * 1000}

    return server


def streamable(server: MCPServer, **settings: Any) -> ASGIApp:
    """At /mcp."""
    return server.streamable_http_app(**settings)


def sse(server: MCPServer) -> ASGIApp:
    """At /sse, as servers were before streamable HTTP."""
    return server.sse_app()


def paged(pages: int, *, endless: bool = False) -> ASGIApp:
    """A tool a page."""

    async def list_tools(_: Any, params: PaginatedRequestParams | None) -> ListToolsResult:
        page = int(params.cursor) if params and params.cursor else 0
        more = endless or page + 1 < pages
        tool = Tool(name=f"tool_{page}", input_schema={"type": "object", "properties": {}})
        return ListToolsResult(tools=[tool], next_cursor=str(page + 1) if more else None)

    async def call_tool(_: Any, params: CallToolRequestParams) -> CallToolResult:
        return CallToolResult(content=[TextContent(type="text", text=params.name)])

    server: Server[Any] = Server("paged", on_list_tools=list_tools, on_call_tool=call_tool)
    return server.streamable_http_app()


def guarded(app: ASGIApp, token: str) -> ASGIApp:
    """Answers nobody without the token."""

    async def check(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            if headers.get(b"authorization") != f"Bearer {token}".encode():
                await Response("no", 401)(scope, receive, send)
                return
        await app(scope, receive, send)

    return check


def answering(answer: Callable[[dict[str, Any]], Any]) -> ASGIApp:
    """Speaks JSON-RPC by hand: `answer` gives each request's result, a Response in its place, or an error to
    raise."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        if request.method != "POST":
            await Response(status_code=405)(scope, receive, send)
            return
        message = json.loads(await request.body())
        if "id" not in message:
            await Response(status_code=202)(scope, receive, send)
            return
        said = answer(message)
        if asyncio.iscoroutine(said):
            said = await said
        if not isinstance(said, Response):
            said = JSONResponse({"jsonrpc": "2.0", "id": message["id"], **said})
        await said(scope, receive, send)

    return app


INITIALIZED = {
    "result": {
        "protocolVersion": "2025-06-18",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "liar", "version": "1"},
    }
}
UNKNOWN = {"error": {"code": -32601, "message": "Method not found"}}


def liar(**said: Any) -> ASGIApp:
    """Answers a method with what is given for its name, after a slash an underscore."""

    def answer(message: dict[str, Any]) -> Any:
        method = message["method"].replace("/", "_")
        if method in said:
            given = said[method]
            return given(message) if callable(given) and not isinstance(given, Response) else given
        if method == "initialize":
            return INITIALIZED
        if method == "tools_list":
            tool = {"name": "lie", "inputSchema": {"type": "object", "properties": {}}}
            return {"result": {"tools": [tool]}}
        return UNKNOWN

    return answering(answer)


def redirecting(to: str) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await RedirectResponse(to, 307)(scope, receive, send)

    return app
