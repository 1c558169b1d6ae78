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
    """A call of a function, or of a custom tool."""

    def __init__(self, call: ToolCallDelta) -> None:
        self.index = call.index
        self.custom = call.custom
        kind, prefix, self._place = (
            ("custom_tool_call", "ctc", "input") if call.custom else ("function_call", "fc", "arguments")
        )
        self._event = "custom_tool_call_input" if call.custom else "function_call_arguments"
        # The SDK's type of a custom call has no status: it gets one only where it was cut off.
        status = {} if call.custom else {"status": "in_progress"}
        self.item: Item = {
            "type": kind,
            "id": new_id(prefix),
            **status,
            "call_id": call.call_id or new_id("call"),
            "name": call.name or "",
            self._place: "",
        }
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
