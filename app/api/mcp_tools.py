"""MCP servers among a request's tools: what may be said of one, and what the response repeats."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from app.api.strict import Absent, Strict, unsupported
from app.conversation.hosted import McpServer, ToolFilter

MAX_SERVERS = 16
"""Of one request: each is a session of its own."""

Label = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
_Names = Annotated[list[Annotated[str, Field(min_length=1, max_length=128)]], Field(max_length=1024)]
_HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}$")]
_HeaderValue = Annotated[str, Field(pattern=r"^[\t\x20-\x7e]{0,8192}$")]
_OURS = frozenset({"accept", "accept-encoding", "connection", "content-length", "content-type", "host"}) | {
    "mcp-protocol-version",
    "mcp-session-id",
    "transfer-encoding",
}
"""Headers that the protocol sets."""


def _reachable(url: str) -> str:
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        fits = False
    if not fits:
        raise PydanticCustomError("url", "It has to be an http or https URL")
    return url


def _clients_own(headers: dict[str, str]) -> dict[str, str]:
    for name in headers:
        if name.lower() in _OURS:
            raise PydanticCustomError("header", "The header '{name}' is set here", {"name": name})
    return headers


def _not_deferred(deferred: Any) -> Any:
    if deferred:
        raise unsupported("There is no tool search: all tools are loaded")
    return deferred


class Filter(Strict):
    """Tools by name, by whether they say that they are read-only, or both."""

    tool_names: _Names | None = None
    read_only: bool | None = None

    @model_validator(mode="after")
    def _says_something(self) -> "Filter":
        if self.tool_names is None and self.read_only is None:
            raise PydanticCustomError("filter", "A filter needs tool_names or read_only")
        return self

    def as_filter(self) -> ToolFilter:
        return ToolFilter(None if self.tool_names is None else tuple(self.tool_names), self.read_only)


class ApprovalFilter(Strict):
    always: Filter | None = None
    never: Filter | None = None


def _form(value: Any) -> str:
    return "filter" if isinstance(value, dict | Strict) else "plain"


class McpTool(Strict):
    type: Literal["mcp"]
    server_label: Label
    server_url: Annotated[str, Field(max_length=2048), AfterValidator(_reachable)]
    server_description: str | None = None
    headers: Annotated[dict[_HeaderName, _HeaderValue], AfterValidator(_clients_own)] | None = None
    authorization: _HeaderValue | None = None
    allowed_tools: (
        Annotated[Annotated[_Names, Tag("plain")] | Annotated[Filter, Tag("filter")], Discriminator(_form)]
        | None
    ) = None
    require_approval: (
        Annotated[
            Annotated[Literal["always", "never"], Tag("plain")] | Annotated[ApprovalFilter, Tag("filter")],
            Discriminator(_form),
        ]
        | None
    ) = None
    connector_id: Absent = None
    tunnel_id: Absent = None
    # Of hosted features: only what they are without them.
    allowed_callers: list[Literal["direct"]] | None = None
    defer_loading: Annotated[Literal[False] | None, BeforeValidator(_not_deferred)] = None

    def shown(self) -> dict[str, Any]:
        """Nothing that may be a secret: no headers, and of the URL no more than the host."""
        said = self.model_dump(
            include={"type", "server_label", "server_description", "allowed_tools", "require_approval"},
            exclude_none=True,
        )
        parts = urlsplit(self.server_url)
        host = parts.netloc.rpartition("@")[2]
        return {"require_approval": "always", **said, "server_url": f"{parts.scheme}://{host}/<redacted>"}

    def server(self) -> McpServer:
        approval = self.require_approval or "always"
        headers = dict(self.headers or {})
        if self.authorization is not None:
            headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            headers["Authorization"] = f"Bearer {self.authorization}"
        chosen = approval if isinstance(approval, ApprovalFilter) else ApprovalFilter()
        return McpServer(
            label=self.server_label,
            url=self.server_url,
            headers=tuple(headers.items()),
            allowed=self._allowed(),
            approval="never" if approval == "never" else "always",
            always=chosen.always.as_filter() if chosen.always else None,
            never=chosen.never.as_filter() if chosen.never else None,
        )

    def _allowed(self) -> ToolFilter | None:
        if self.allowed_tools is None:
            return None
        if isinstance(self.allowed_tools, Filter):
            return self.allowed_tools.as_filter()
        return ToolFilter(tuple(self.allowed_tools))


class NamedMcpTool(Strict):
    """A server's tool; without a name, any of them."""

    type: Literal["mcp"]
    server_label: str
    name: str | None = None


def servers_of(tools: Sequence[Any]) -> tuple[McpServer, ...]:
    return tuple(tool.server() for tool in tools if isinstance(tool, McpTool))
