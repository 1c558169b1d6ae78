"""A request for each row of docs/api.md's tables about requests."""

from collections.abc import Callable
from typing import Any

from tests.unit.api.api_doc import (
    CACHE_OPTIONS,
    CREATE,
    INCLUDE,
    ITEMS,
    MCP_FIELDS,
    OURS,
    PARTS,
    REASONING,
    STREAM_OPTIONS,
    TEXT,
    TOOL_CHOICE,
    TOOL_FIELDS,
    TOOLS,
)

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}
CUSTOM = {"type": "custom", "name": "g"}
MCP = {"type": "mcp", "server_label": "box", "server_url": "https://tools.example/mcp"}
IMAGE = {"type": "input_image", "image_url": "data:image/png;base64,AA=="}


def with_tools(choice: Any) -> dict[str, Any]:
    return {"tools": [TOOL, CUSTOM, MCP], "tool_choice": choice}


def in_tool(name: str, value: Any) -> dict[str, Any]:
    return {"tools": [{**(CUSTOM if name == "format" else TOOL), name: value}]}


def item(**more: Any) -> dict[str, Any]:
    return {"input": [more]}


def part(value: dict[str, Any], role: str = "user") -> dict[str, Any]:
    return item(role=role, content=[value])


Sample = Callable[[str], dict[str, Any]]
"""Of a row's name, a request that has it; `input` is a word where it says nothing."""

VALUES: dict[str, Any] = {
    "background": True,
    "background_options": {"completion_window": "soonest"},
    "context_management": [{"type": "compaction", "compact_threshold": 1000}],
    "conversation": {"id": "conv_1"},
    "include": ["message.output_text.logprobs"],
    "input": "hi",
    "max_output_tokens": 5,
    "max_tool_calls": 1,
    "metadata": {"a": "b"},
    "parallel_tool_calls": False,
    "prompt_cache_options": {"mode": "explicit"},
    "prompt_cache_retention": "24h",
    "reasoning": {"effort": "low"},
    "service_tier": "flex",
    "store": False,
    "stream_options": {},
    "stream": True,
    "temperature": 0.5,
    "text": {"format": {"type": "json_object"}},
    "tool_choice": "none",
    "tools": [TOOL],
    "top_logprobs": 3,
    "top_p": 0.5,
    "truncation": "auto",
    "allowed_token_ids": [1],
    "bad_words": ["bad"],
    "caching": {"type": "enabled", "ttl": 2592000},
    "chat_template_kwargs": {"a": 1},
    "frequency_penalty": 1,
    "ignore_eos": True,
    "include_stop_str_in_output": True,
    "logit_bias": {"1": 5},
    "min_p": 0.1,
    "min_tokens": 1,
    "presence_penalty": 1,
    "priority": 1,
    "repetition_penalty": 1.1,
    "seed": 1,
    "skip_special_tokens": False,
    "spaces_between_special_tokens": False,
    "stop": ["x"],
    "stop_token_ids": [1],
    "structured_outputs": {"choice": ["a"]},
    "thinking_token_budget": 5,
    "top_k": 5,
}
"""Of fields that are no strings."""

NEEDED: dict[str, Any] = {"stream_options": {"stream": True}, "tool_choice": {"tools": [TOOL]}}

INNER: dict[str, Any] = {
    "context": "all_turns",
    "comparison_response_id": "resp_1",
    "mode": "explicit",
    "prewarm": True,
    "ttl": "12h",
    "effort": "high",
    "summary": "auto",
    "generate_summary": "concise",
    "format": {"type": "json_schema", "name": "n", "schema": {}, "strict": True},
    "verbosity": "low",
}

TOOL_VALUES: dict[str, Any] = {
    "allowed_callers": ["direct"],
    "async": True,
    "defer_loading": True,
    "description": "d",
    "format": {"type": "grammar", "syntax": "regex", "definition": "a+"},
    "name": "h",
    "output_schema": {},
    "parameters": {},
    "strict": False,
    "type": "function",
}

MCP_VALUES: dict[str, Any] = {
    "allowed_callers": ["direct"],
    "allowed_tools": {"tool_names": ["f"], "read_only": True},
    "authorization": "t",
    "connector_id": "connector_gmail",
    "defer_loading": True,
    "headers": {"X-Key": "k"},
    "require_approval": {"never": {"tool_names": ["f"]}},
    "server_description": "d",
    "server_label": "b",
    "server_url": "http://localhost:9/mcp?x=y",
    "tunnel_id": "t",
    "type": "mcp",
}

MCP_CALL = {"id": "mcp_1", "server_label": "box", "name": "f", "arguments": "{}"}

ITEM_VALUES: dict[str, Any] = {
    "mcp_list_tools": {"id": "mcpl_1", "server_label": "b", "tools": [{"name": "f", "input_schema": {}}]},
    "mcp_call": {
        **MCP_CALL,
        "status": "failed",
        "error": {"type": "mcp_protocol_error", "code": -1, "message": "no"},
    },
    "mcp_approval_request": MCP_CALL,
    "mcp_approval_response": {"approval_request_id": "mcpr_1", "approve": True},
    "message": {"role": "developer", "content": "x"},
    "reasoning": {"summary": [], "encrypted_content": "mr1_"},
    "function_call": {"call_id": "c", "name": "f", "arguments": "{}"},
    "function_call_output": {"call_id": "c", "output": [IMAGE]},
    "custom_tool_call": {"call_id": "c", "name": "g", "input": "x", "status": "incomplete"},
    "custom_tool_call_output": {"call_id": "c", "output": "x"},
    "item_reference": {"id": "msg_1"},
    "compaction": {"encrypted_content": "mc1_"},
}

PART_VALUES: dict[str, dict[str, Any]] = {
    "input_text": part({"type": "input_text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit"}}),
    "input_image": part(IMAGE),
    "input_file": part({"type": "input_file", "file_id": "f"}),
    "output_text": part({"type": "output_text", "text": "x", "annotations": []}, "assistant"),
    "refusal": part({"type": "refusal", "refusal": "no"}, "assistant"),
}


def choice(kind: str) -> dict[str, Any]:
    named = {"function": TOOL, "custom": CUSTOM}
    if kind in named:
        return with_tools({"type": kind, "name": named[kind]["name"]})
    if kind == "mcp":
        return with_tools({"type": kind, "server_label": "box", "name": "f"})
    if kind == "allowed_tools":
        return with_tools({"type": kind, "mode": "auto", "tools": [{"type": "custom", "name": "g"}]})
    return with_tools(kind if kind in ("none", "auto", "required") else {"type": kind})


DOES: list[tuple[dict[str, str], Sample, str]] = [
    (CREATE | OURS, lambda name: {**NEEDED.get(name, {}), name: VALUES.get(name, "x")}, "{}"),
    (INCLUDE, lambda name: {"include": [name]}, "include"),
    (CACHE_OPTIONS, lambda name: {"prompt_cache_options": {name: INNER[name]}}, "prompt_cache_options.{}"),
    (REASONING, lambda name: {"reasoning": {name: INNER[name]}}, "reasoning.{}"),
    (TEXT, lambda name: {"text": {name: INNER[name]}}, "text.{}"),
    (STREAM_OPTIONS, lambda name: {"stream": True, "stream_options": {name: True}}, "stream_options.{}"),
    (TOOLS, lambda kind: {"tools": [MCP if kind == "mcp" else {"type": kind, "name": "f"}]}, "tools[0]"),
    (MCP_FIELDS, lambda name: {"tools": [{**MCP, name: MCP_VALUES[name]}]}, "tools[0].{}"),
    (TOOL_FIELDS, lambda name: in_tool(name, TOOL_VALUES[name]), "tools[0].{}"),
    (TOOL_CHOICE, choice, "tool_choice"),
    (ITEMS, lambda kind: item(type=kind, **ITEM_VALUES.get(kind, {})), "input[0]"),
    (PARTS, lambda kind: PART_VALUES[kind], "input[0].content[0]"),
]
"""Tables, samples of their rows, and the `param` of a refusal."""
