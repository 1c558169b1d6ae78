"""Tools that are called here, on MCP servers: what a turn needs of them, and the port to them."""

from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

ErrorKind = Literal["mcp_protocol_error", "mcp_tool_execution_error", "http_error"]
_INTERNAL_ERROR = -32603


class ToolServerError(Exception):
    """A tool server could not be used, or its answer could not: `message` is for the model and the client.

    code: the HTTP status of an `http_error`, JSON-RPC's code of an `mcp_protocol_error`.
    """

    def __init__(
        self, message: str, kind: ErrorKind = "mcp_protocol_error", code: int = _INTERNAL_ERROR
    ) -> None:
        super().__init__(message)
        self.message = message
        self.kind: ErrorKind = kind
        self.code = code

    def as_json(self) -> dict[str, Any]:
        """A call's `error`, in the Responses API's shape."""
        if self.kind == "mcp_tool_execution_error":
            return {"type": self.kind, "content": [{"type": "text", "text": self.message}]}
        return {"type": self.kind, "code": self.code, "message": self.message}


@dataclass(frozen=True, slots=True)
class ServerTool:
    """A tool of a server, as it describes it. read_only: whether it says that it changes nothing."""

    name: str
    description: str | None
    input_schema: dict[str, Any]
    read_only: bool = False
    annotations: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ToolFilter:
    """Some of a server's tools: those of these names, and those that are read-only or not; None is either."""

    names: tuple[str, ...] | None = None
    read_only: bool | None = None

    def takes(self, tool: ServerTool) -> bool:
        return (self.names is None or tool.name in self.names) and (
            self.read_only is None or tool.read_only == self.read_only
        )


@dataclass(frozen=True, slots=True)
class McpServer:
    """One MCP server as a request names it.

    headers: the authorization among them. allowed: the tools that may be used; None for all. always, never:
    the tools that need an approval, or need none, whatever `approval` says of the rest.
    """

    label: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    allowed: ToolFilter | None = None
    approval: Literal["always", "never"] = "always"
    always: ToolFilter | None = None
    never: ToolFilter | None = None

    def offers(self, tool: ServerTool) -> bool:
        return self.allowed is None or self.allowed.takes(tool)

    def needs_approval(self, tool: ServerTool) -> bool:
        if self.always is not None and self.always.takes(tool):
            return True
        if self.never is not None and self.never.takes(tool):
            return False
        return self.approval == "always"


class ToolSessions(Protocol):
    """The sessions of one turn with its servers, one each. Every call ends within its time-out."""

    async def tools(self, server: McpServer) -> tuple[ServerTool, ...]:
        """All that it has. Raises ToolServerError."""

    async def call(self, server: McpServer, name: str, arguments: dict[str, Any]) -> str:
        """What a tool said, as text. Raises ToolServerError, also where the tool says that it failed."""


class ToolServers(Protocol):
    """Port to MCP servers."""

    def turn(self) -> AbstractAsyncContextManager[ToolSessions]:
        """Sessions are opened as they are needed, and closed at the end."""
