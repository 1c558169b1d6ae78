"""Tool servers for unit tests, in the test's own process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from app.conversation.hosted import McpServer, ServerTool, ToolServerError

Tool = Callable[[dict[str, Any]], Awaitable[str]]


def tool(name: str, *, read_only: bool = False) -> ServerTool:
    return ServerTool(name, f"Does {name}.", {"type": "object", "properties": {}}, read_only)


class FakeToolServers:
    """Has the same tools on every server, less those of `down`. What tools do is in `does`."""

    def __init__(self, *tools: ServerTool) -> None:
        self.has = tools or (tool("look"),)
        self.down: set[str] = set()
        self.does: dict[str, Tool] = {}
        self.calls: list[tuple[str, str, dict[str, Any]]] = []
        self.open = 0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator["FakeToolServers"]:
        self.open += 1
        try:
            yield self
        finally:
            self.open -= 1

    async def tools(self, server: McpServer) -> tuple[ServerTool, ...]:
        await asyncio.sleep(0)
        if server.label in self.down:
            raise ToolServerError("It is down.", "http_error", 503)
        return self.has

    async def call(self, server: McpServer, name: str, arguments: dict[str, Any]) -> str:
        self.calls.append((server.label, name, arguments))
        if name in self.does:
            return await self.does[name](arguments)
        await asyncio.sleep(0)
        return f"{name} said {len(self.calls)}"
