"""What is taken of a stranger's tools."""

from typing import Any

import pytest
from mcp_types import Tool

from app.conversation.hosted import ToolServerError
from app.mcp.described import MAX_BYTES, weigh
from app.mcp.results import tool_of


def nested(depth: int) -> Any:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


WRONG: dict[str, Any] = {
    "no number": {"default": float("nan")},
    "no finite number": {"maximum": float("inf")},
    "an integer of more than 64 bits": {"maximum": 2**64},
    "another": {"properties": {"a": {"enum": [-(2**63) - 1]}}},
    "half a character": {"title": "\ud800"},
    "half a character in a name": {"properties": {"\ud800": {}}},
    "depth": nested(40),
    "length": {"title": "ä" * (MAX_BYTES // 2)},
    "many values": {"allOf": [{}] * 20_000},
    "another type": {"type": "string"},
    "properties that are none": {"properties": []},
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_could_not_be_kept_or_shown_is_refused(wrong: str) -> None:
    tool = Tool(name="lie", input_schema={"type": "object", **WRONG[wrong]})
    with pytest.raises(ToolServerError) as caught:
        tool_of(tool)
    assert "'lie'" in caught.value.message


def test_annotations_are_looked_through_as_well() -> None:
    annotations = {"title": "x" * MAX_BYTES}
    with pytest.raises(ToolServerError):
        tool_of(
            Tool.model_validate(
                {"name": "lie", "inputSchema": {"type": "object"}, "annotations": annotations}
            )
        )


def test_a_schema_that_would_take_seconds_to_validate_is_only_looked_through() -> None:
    schema = {"type": "object", "allOf": [{}] * 9000, "maximum": 1.7976931348623157e308, "minimum": 2**64 - 1}
    tool, size = tool_of(Tool(name="slow", input_schema=schema))
    assert tool.input_schema == schema
    assert 9000 < size < MAX_BYTES


def test_what_is_said_has_a_weight() -> None:
    assert weigh("a", {"ä": [1, True, None]}) == 6 * 2 + 2
