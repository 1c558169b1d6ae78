"""What MCP servers answer, as text for the model and as tools; within limits."""

import json
from typing import Any

from mcp_types import (
    AudioContent,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ResourceLink,
    TextContent,
    TextResourceContents,
    Tool,
)

from app.conversation.hosted import ServerTool, ToolServerError
from app.mcp.described import weigh

MAX_OUTPUT_BYTES = 64 * 1024
MAX_DESCRIPTION_CHARACTERS = 8 * 1024


def text_of(result: CallToolResult) -> str:
    """Raises ToolServerError where the tool says that it failed."""
    text = limited("\n".join(map(_text, result.content)))
    if not result.content and result.structured_content is not None:
        text = limited(json.dumps(result.structured_content, ensure_ascii=False))
    if result.is_error:
        raise ToolServerError(text or "The tool failed and did not say why.", "mcp_tool_execution_error")
    return text


def _text(block: Any) -> str:
    match block:
        case TextContent():
            return block.text
        case ImageContent() | AudioContent():
            return f"[{block.type} of type {block.mime_type}: not shown]"
        case ResourceLink():
            return f"[{block.name}: {block.uri}]"
        case EmbeddedResource(resource=TextResourceContents() as resource):
            return resource.text
        case EmbeddedResource():
            return f"[{block.resource.uri}: not shown]"
    return "[content of an unknown kind: not shown]"


def limited(text: str) -> str:
    """The beginning of a text that is too long, with a note; what is no text in UTF-8 is replaced."""
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= MAX_OUTPUT_BYTES:
        return encoded.decode()
    beginning = encoded[:MAX_OUTPUT_BYTES].decode("utf-8", "ignore")
    return f"{beginning}\n[Cut: this is the beginning of {len(encoded)} bytes.]"


def tool_of(tool: Tool) -> tuple[ServerTool, int]:
    """With the bytes of what is said of it. Raises ToolServerError for one that no model could be shown."""
    schema = tool.input_schema
    description = tool.description[:MAX_DESCRIPTION_CHARACTERS] if tool.description else None
    hints = tool.annotations.model_dump(by_alias=True, exclude_none=True) if tool.annotations else None
    size = weigh(tool.name, [tool.name, description, schema, hints])
    if schema.get("type") != "object" or not isinstance(schema.get("properties", {}), dict):
        raise ToolServerError(f"The input schema of the tool '{tool.name[:64]}' is not an object's.")
    shown = ServerTool(
        name=tool.name,
        description=description,
        input_schema=schema,
        read_only=bool(tool.annotations and tool.annotations.read_only_hint),
        annotations=hints,
    )
    return shown, size
