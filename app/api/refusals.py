"""How a request that does not fit is refused: OpenAI's error for pydantic's first one."""

from collections.abc import Collection

from openai.types.responses.input_token_count_params import InputTokenCountParams
from openai.types.responses.response_compact_params import ResponseCompactParams
from openai.types.responses.response_create_params import ResponseCreateParamsBase
from pydantic_core import ErrorDetails

from app.api.strict import UNSUPPORTED
from app.errors import (
    InvalidJson,
    InvalidRequest,
    InvalidType,
    MissingParameter,
    UnknownParameter,
    UnsupportedParameter,
)

_KNOWN_TO_OPENAI = frozenset().union(
    *(
        params.__annotations__
        for params in (ResponseCreateParamsBase, InputTokenCountParams, ResponseCompactParams)
    )
)


def refusal(error: ErrorDetails, known: Collection[str] = _KNOWN_TO_OPENAI) -> InvalidRequest:
    """known: fields that are refused as unsupported, not as unknown."""
    kind, location = error["type"], _param(error["loc"])
    if kind == "json_invalid":
        return InvalidJson(f"We could not parse the JSON body of your request: {error['msg']}")
    if kind == "missing":
        return MissingParameter(f"Missing required parameter: '{location}'.", param=location)
    if kind == "extra_forbidden" and location in known:
        return UnsupportedParameter(f"Unsupported parameter: '{location}'.", param=location)
    if kind == "extra_forbidden":
        return UnknownParameter(f"Unknown parameter: '{location}'.", param=location)
    message = f"Invalid '{location}': {error['msg']}." if location else f"Invalid body: {error['msg']}."
    if kind == UNSUPPORTED:
        return UnsupportedParameter(message, param=location)
    if kind.endswith(("_type", "_parsing")):
        return InvalidType(message, param=location)
    return InvalidRequest(message, param=location)


_TAGS = frozenset(
    {
        "message",
        "assistant",
        "reasoning",
        "function_call",
        "function_call_output",
        "custom_tool_call",
        "custom_tool_call_output",
        "item_reference",
        "compaction",
        "compaction_trigger",
        "input_text",
        "input_image",
        "output_text",
        "refusal",
        "function",
        "custom",
        "mcp",
        "mcp_approval_request",
        "mcp_approval_response",
        "mcp_call",
        "mcp_list_tools",
    }
)
"""What pydantic puts into an error's location after an index: the member of a union that was tried."""

_MEMBERS = {
    "tool_choice": frozenset({"mode", "named", "mcp", "allowed_tools"}),
    "allowed_tools": frozenset({"plain", "filter"}),
    "require_approval": frozenset({"plain", "filter"}),
    "format": frozenset({"text", "grammar", "json_object", "json_schema"}),
    "stop": frozenset({"str", "list[str]"}),
}
"""Likewise after the field of that name."""


def _param(location: tuple[int | str, ...]) -> str | None:
    """`input[0].content`, without the names of union members that pydantic adds."""
    path = ""
    for before, step in zip((None, *location), location, strict=False):
        if isinstance(step, int):
            path += f"[{step}]"
        elif (isinstance(before, int) and step in _TAGS) or step in _MEMBERS.get(str(before), ()):
            continue
        else:
            path += f".{step}" if path else step
    return path or None
