"""Input items of MCP tools: what each may hold. What an answer had of them can be sent back."""

from typing import Annotated, Any, Literal

from pydantic import Field

from app.api.strict import ClientJson, Strict

McpId = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]
"""The database has an index of them."""


class ListedTool(Strict):
    name: str
    description: str | None = None
    input_schema: ClientJson
    annotations: ClientJson | None = None


class McpListTools(Strict):
    """It tells the client; the model is shown what the servers say in its own turn."""

    type: Literal["mcp_list_tools"]
    id: McpId | None = None
    server_label: str
    tools: list[ListedTool]
    error: str | None = None


class ProtocolError(Strict):
    type: Literal["mcp_protocol_error"]
    code: int
    message: str


class HttpError(Strict):
    type: Literal["http_error"]
    code: int
    message: str


class ToolExecutionError(Strict):
    """Of a tool that says itself that it failed."""

    type: Literal["mcp_tool_execution_error"]
    content: str | list[Any] | ClientJson | None = None


class McpCall(Strict):
    type: Literal["mcp_call"]
    id: McpId
    status: Literal["in_progress", "completed", "incomplete", "calling", "failed"] | None = None
    server_label: str
    name: str
    arguments: str
    approval_request_id: McpId | None = None
    output: str | None = None
    error: Annotated[ProtocolError | HttpError | ToolExecutionError, Field(discriminator="type")] | None = (
        None
    )


class McpApprovalRequest(Strict):
    type: Literal["mcp_approval_request"]
    id: McpId
    server_label: str
    name: str
    arguments: str


class McpApprovalResponse(Strict):
    type: Literal["mcp_approval_response"]
    id: McpId | None = None
    approval_request_id: McpId
    approve: bool
    reason: str | None = None
