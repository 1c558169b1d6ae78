"""Output items as they are written: for each kind its first shape, its events, and what it is in the end.

Each is opened by `response.output_item.added` and closed by `.done`, which the assembler sends; between them
come the events that `opened`, `add` and `closed` give, without the numbers that all events carry.
"""

import json
import secrets
from typing import Any

from app.conversation.engine import ToolCallDelta
from app.conversation.records import Item

Event = dict[str, Any]


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(24)}"


class TextWriter:
    """A message's text, a reasoning item's text, or its summary."""

    def __init__(self, item: Item, event: str, part: str, place: str, index: str) -> None:
        """event: `response.{event}.delta`; part: type of the part; place: the item's field that holds it;
        index: name of the part's number in events."""
        self.item = item
        self._event, self._part, self._place = event, part, place
        self._index = {index: 0}
        self._part_event = "content_part" if index == "content_index" else "reasoning_summary_part"
        self._text: list[str] = []
        self._logprobs: list[dict[str, Any]] = []

    def opened(self) -> list[Event]:
        return [self._new(f"{self._part_event}.added", part=self._as_part(""))]

    def add(self, text: str, logprobs: tuple[dict[str, Any], ...] = ()) -> list[Event]:
        self._text.append(text)
        self._logprobs += logprobs
        return [self._new(f"{self._event}.delta", delta=text, **self._of_tokens(logprobs))]

    def closed(self) -> list[Event]:
        text = "".join(self._text)
        part = self._as_part(text)
        self.item[self._place] = [part]
        return [
            self._new(f"{self._event}.done", text=text, **self._of_tokens(self._logprobs)),
            self._new(f"{self._part_event}.done", part=part),
        ]

    def _new(self, kind: str, **fields: Any) -> Event:
        return {"type": f"response.{kind}", **self._index, **fields}

    def _as_part(self, text: str) -> dict[str, Any]:
        if self._part == "output_text":
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": [*self._logprobs]}
        return {"type": self._part, "text": text}

    def _of_tokens(self, logprobs: Any) -> dict[str, Any]:
        if self._part != "output_text":
            return {}
        # Events have no `bytes`, parts do: the SDK's types say so.
        return {"logprobs": [_without_bytes(token) for token in logprobs]}


def _without_bytes(token: dict[str, Any]) -> dict[str, Any]:
    top = [{"token": t["token"], "logprob": t["logprob"]} for t in token["top_logprobs"]]
    return {"token": token["token"], "logprob": token["logprob"], "top_logprobs": top}


def arguments_of(text: str) -> dict[str, Any] | None:
    """A function's arguments; None where the text is no JSON object that could be read."""
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):  # The first also of a number with thousands of digits.
        return None
    return arguments if isinstance(arguments, dict) else None


class CallWriter:
    """A call of a function, of a custom tool, or of an MCP server's tool."""

    def __init__(self, index: int, item: Item, event: str, place: str, *, custom: bool = False) -> None:
        """index: vLLM's number of the call. event: `response.{event}.delta`; place: the item's field that
        holds what comes."""
        self.index = index
        self.item = item
        self.custom = custom
        self._event, self._place = event, place
        self._text: list[str] = []

    def opened(self) -> list[Event]:
        return []

    def add(self, text: str) -> list[Event]:
        if not text:
            return []
        self._text.append(text)
        return [{"type": f"response.{self._event}.delta", "delta": text}]

    @property
    def whole(self) -> bool:
        """Whether it can be told that nothing of the call is missing: that its arguments are an object."""
        return not self.custom and arguments_of("".join(self._text)) is not None

    def closed(self) -> list[Event]:
        self.item[self._place] = "".join(self._text)
        return [{"type": f"response.{self._event}.done", self._place: self.item[self._place]}]


class McpCallWriter(CallWriter):
    """A call of an MCP server's tool, without what comes of it."""

    def __init__(self, index: int, server_label: str, name: str, *, approved: str | None = None) -> None:
        """approved: id of the request that was."""
        item = {
            "type": "mcp_call",
            "id": new_id("mcp"),
            "status": "in_progress",
            "approval_request_id": approved,
            "arguments": "",
            "error": None,
            "name": name,
            "output": None,
            "server_label": server_label,
        }
        super().__init__(index, item, "mcp_call_arguments", "arguments")

    def opened(self) -> list[Event]:
        return [{"type": "response.mcp_call.in_progress"}]


class ApprovalWriter(CallWriter):
    """A call that the client is asked about first. Nothing of it is shown before it is whole."""

    def __init__(self, index: int, server_label: str, name: str) -> None:
        item = {
            "type": "mcp_approval_request",
            "id": new_id("mcpr"),
            "arguments": "",
            "name": name,
            "server_label": server_label,
        }
        super().__init__(index, item, "", "arguments")

    def add(self, text: str) -> list[Event]:
        super().add(text)
        return []

    def closed(self) -> list[Event]:
        super().closed()
        return []

    @property
    def text(self) -> str:
        return "".join(self._text)


class CompactionWriter:
    """A compaction: what it stands for is put into the item before it is closed."""

    def __init__(self) -> None:
        self.item: Item = {"type": "compaction", "id": new_id("cmp"), "encrypted_content": ""}

    def opened(self) -> list[Event]:
        return [{"type": "response.compaction.compacting"}]

    def closed(self) -> list[Event]:
        return []


def call(delta: ToolCallDelta) -> CallWriter:
    """Of a tool that is the client's."""
    item = {"call_id": delta.call_id or new_id("call"), "name": delta.name or ""}
    if delta.custom:
        # The SDK's type of a custom call has no status: it gets one only where it was cut off.
        item = {"type": "custom_tool_call", "id": new_id("ctc"), **item, "input": ""}
        return CallWriter(delta.index, item, "custom_tool_call_input", "input", custom=True)
    item = {
        "type": "function_call",
        "id": new_id("fc"),
        "status": "in_progress",
        **item,
        "arguments": "",
    }
    return CallWriter(delta.index, item, "function_call_arguments", "arguments")


def mcp_list_tools(server_label: str) -> Item:
    """Its tools are added when they are known."""
    return {
        "type": "mcp_list_tools",
        "id": new_id("mcpl"),
        "server_label": server_label,
        "tools": [],
        "error": None,
    }


def message() -> TextWriter:
    item = {
        "type": "message",
        "id": new_id("msg"),
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }
    return TextWriter(item, "output_text", "output_text", "content", "content_index")


def reasoning(*, summarise: bool) -> TextWriter:
    """Reasoning as its text, or with `summarise` as a summary, which then holds all of it."""
    item = {"type": "reasoning", "id": new_id("rs"), "status": "in_progress", "summary": []}
    if summarise:
        return TextWriter(item, "reasoning_summary_text", "summary_text", "summary", "summary_index")
    return TextWriter({**item, "content": []}, "reasoning_text", "reasoning_text", "content", "content_index")
