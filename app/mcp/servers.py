"""The port to MCP servers: the sessions of a turn."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from app.conversation.hosted import McpServer, ServerTool
from app.mcp.hosts import AllowedHosts

if TYPE_CHECKING:
    from app.mcp.session import Session

LISTING_S = 10.0


class McpToolServers:
    """See conversation.hosted.ToolServers.

    call_s: seconds that a call may take; listing_s: connecting and listing, each. allowed_hosts: those
    that are connected to; none stands for all.
    """

    def __init__(
        self, call_s: float, allowed_hosts: Collection[str] = (), listing_s: float = LISTING_S
    ) -> None:
        self._call_s = call_s
        self._listing_s = listing_s
        self._allowed = AllowedHosts(allowed_hosts)
        self._closing = set[asyncio.Task[None]]()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator["Sessions"]:
        sessions = Sessions(self._listing_s, self._call_s, self._allowed)
        try:
            yield sessions
        finally:
            for task in sessions.close():
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Wait for the sessions that are being closed."""
        await asyncio.gather(*self._closing, return_exceptions=True)


class Sessions:
    """See conversation.hosted.ToolSessions. One that broke off is opened again when it is needed."""

    def __init__(self, listing_s: float, call_s: float, allowed: AllowedHosts) -> None:
        self._listing_s = listing_s
        self._call_s = call_s
        self._allowed = allowed
        self._sessions: dict[str, Session] = {}

    async def tools(self, server: McpServer) -> tuple[ServerTool, ...]:
        return await (await self._with(server)).tools()

    async def call(self, server: McpServer, name: str, arguments: dict[str, Any]) -> str:
        return await (await self._with(server)).call(name, arguments)

    def close(self) -> list[asyncio.Task[None]]:
        return [session.close() for session in self._sessions.values()]

    async def _with(self, server: McpServer) -> "Session":
        self._allowed.check(server.url)
        made = await asyncio.to_thread(_sessions)
        session = self._sessions.get(server.label)
        if session is None or session.is_over:
            session = made(server, self._listing_s, self._call_s)
            self._sessions[server.label] = session
        return session


def _sessions() -> type["Session"]:
    """The SDK takes half a second to import: only those who use it wait for it, and beside the event loop."""
    from app.mcp.session import Session

    return Session
