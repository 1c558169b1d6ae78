"""The tools of MCP servers as the model sees them: functions, under names that no two share."""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from app.conversation.hosted import McpServer, ServerTool

_MOST_CHARACTERS = 64
_STRANGE = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class HostedTool:
    """shown: the name under which the model calls it."""

    server: McpServer
    tool: ServerTool
    shown: str

    def as_function(self) -> dict[str, Any]:
        """In the Responses API's shape. Its arguments are not decoded by the schema: that is a stranger's."""
        described = {"description": self.tool.description} if self.tool.description else {}
        return {
            "type": "function",
            "name": self.shown,
            **described,
            "parameters": self.tool.input_schema,
        }


def named(own: Iterable[str], listed: Sequence[tuple[McpServer, ServerTool]]) -> tuple[HostedTool, ...]:
    """Each tool under its own name; where two tools of the request would have the same, after its server's
    label. own: names of the client's tools, which are never changed."""
    mine = set(own)
    plain = [plain_name(tool.name) for _, tool in listed]
    taken, made = set(mine), []
    for (server, tool), name in zip(listed, plain, strict=True):
        if name in mine or plain.count(name) > 1:
            name = plain_name(f"{server.label}__{name}")
        shown = _unlike(taken, name)
        taken.add(shown)
        made.append(HostedTool(server, tool, shown))
    return tuple(made)


def plain_name(name: str) -> str:
    """A tool's name as a function may have it."""
    return _STRANGE.sub("_", name)[:_MOST_CHARACTERS] or "_"


def _unlike(taken: Collection[str], name: str) -> str:
    number, found = 2, name
    while found in taken:
        ending = f"_{number}"
        found = name[: _MOST_CHARACTERS - len(ending)] + ending
        number += 1
    return found


def choice_of_functions(choice: Any, tools: Sequence[HostedTool]) -> Any:
    """`tool_choice` where what it says of MCP tools is said of their functions. One that is forced and could
    not be listed is not."""
    if isinstance(choice, str):
        return choice
    if choice["type"] == "allowed_tools":
        allowed = [function for entry in choice["tools"] for function in _functions(entry, tools)]
        return {**choice, "tools": allowed}
    if choice["type"] != "mcp":
        return choice
    functions = _functions(choice, tools)
    if not functions:
        return "auto"
    if choice.get("name"):
        return functions[0]
    return {"type": "allowed_tools", "mode": "required", "tools": functions}


def once_called(choice: Any) -> Any:
    """`tool_choice` of the rounds after the first: a call that was to be made has been."""
    if choice == "none":
        return choice
    if isinstance(choice, dict) and choice["type"] == "allowed_tools":
        return {**choice, "mode": "auto"}
    return "auto"


def _functions(entry: dict[str, Any], tools: Sequence[HostedTool]) -> list[dict[str, Any]]:
    """What an entry of `tool_choice` names, as functions."""
    if entry["type"] != "mcp":
        return [entry]
    return [
        {"type": "function", "name": hosted.shown}
        for hosted in tools
        if hosted.server.label == entry["server_label"] and entry.get("name") in (None, "", hosted.tool.name)
    ]
