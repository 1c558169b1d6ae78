"""Tools that are called here, on MCP servers: what a turn needs of them, and the port to them."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol


class ToolServerError(Exception):
    """A tool server could not be used, or its answer could not: `message` is for the model and the client."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True, slots=True)
class McpServer:
    """One MCP server as a request names it.

    transport: `None` finds it out. headers: the authorization among them. allowed: names of the tools that
    may be used; None for all. read_only: whether only tools that say so of themselves may be.
    always, never: which tools need an approval: names, or True for all others.
    """

    label: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    allowed: tuple[str, ...] | None = None
    read_only: bool | None = None
    approval: Literal["always", "never"] = "always"
    always: tuple[str, ...] = ()
    never: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ServerTool:
    """A tool of a server, as it describes it."""

    name: str
    description: str | None
    input_schema: dict[str, Any]
    read_only: bool | None = None
    annotations: dict[str, Any] | None = None


class ToolServers(Protocol):
    """Port to MCP servers. Every call ends within its time-out."""

    async def tools(self, server: McpServer) -> tuple[ServerTool, ...]:
        """All that it offers. Raises ToolServerError."""

    async def call(self, server: McpServer, name: str, arguments: dict[str, Any]) -> str:
        """What a tool said, as text. Raises ToolServerError, also where the tool itself says that it failed."""
