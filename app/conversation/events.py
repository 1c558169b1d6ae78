"""From vLLM's deltas to the Responses API's events and output items, in the order that its SDKs expect.

Events and items are the client's JSON. Invariants: `sequence_number` has no gaps, each item is opened and
closed once, every `done` event equals its deltas joined, ids do not change from `added` to `completed`.
"""

import secrets
from dataclasses import dataclass, field
from typing import Any

from app.conversation.engine import Delta, ToolCallDelta
from app.conversation.records import Item

Event = dict[str, Any]


def new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(24)}"


@dataclass(slots=True)
class _Open:
    """The output item that is being written."""

    kind: str
    item: Item
    tool_index: int | None = None
    parts: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(self.parts)


class EventAssembler:
    """Builds one response. `response` is its body without output, which the caller keeps up to date."""

    def __init__(self, response: dict[str, Any]) -> None:
        self._response = response
        self._sequence = 0
        self._open: _Open | None = None
        self.output: list[Item] = []

    def start(self) -> list[Event]:
        return [
            self._event(kind, response=self._snapshot())
            for kind in ("response.created", "response.in_progress")
        ]

    def add(self, delta: Delta) -> list[Event]:
        events: list[Event] = []
        if delta.reasoning:
            events += self._write("reasoning", delta.reasoning)
        if delta.text:
            events += self._write("message", delta.text)
        for call in delta.tool_calls:
            events += self._write_call(call)
        return events

    def end(self, status: str) -> list[Event]:
        """Close what is open. status: `completed` or `incomplete`, for the item that was being written."""
        events: list[Event] = []
        if self._open is None and not self.output:
            # An answer of no tokens is still an answer: the history needs its message.
            events += self._begin("message")
        return events + self._close(status)

    def final(self) -> Event:
        """The last event: `response.completed`, `.incomplete` or `.failed`, as the body's status says."""
        return self._event(f"response.{self._response['status']}", response=self._snapshot())

    def _snapshot(self) -> dict[str, Any]:
        return {**self._response, "output": list(self.output)}

    def _event(self, kind: str, **fields: Any) -> Event:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event

    def _write(self, kind: str, text: str) -> list[Event]:
        events: list[Event] = []
        if self._open is None or self._open.kind != kind:
            events += self._close("completed") + self._begin(kind)
        assert self._open is not None
        self._open.parts.append(text)
        fields: dict[str, Any] = {"content_index": 0, "delta": text}
        if kind == "message":
            fields["logprobs"] = []
        events.append(self._item_event(f"response.{_PART[kind]}.delta", **fields))
        return events

    def _write_call(self, call: ToolCallDelta) -> list[Event]:
        events: list[Event] = []
        if self._open is None or self._open.tool_index != call.index:
            events += self._close("completed")
            self._open = _Open("function_call", _new_call(call), call.index)
            events.append(self._opened())
        assert self._open is not None
        if call.arguments:
            self._open.parts.append(call.arguments)
            events.append(self._item_event("response.function_call_arguments.delta", delta=call.arguments))
        return events

    def _begin(self, kind: str) -> list[Event]:
        self._open = _Open(kind, _NEW_ITEM[kind]())
        return [
            self._opened(),
            self._item_event("response.content_part.added", content_index=0, part=_part(kind, "")),
        ]

    def _opened(self) -> Event:
        assert self._open is not None
        return self._event(
            "response.output_item.added", output_index=len(self.output), item=dict(self._open.item)
        )

    def _close(self, status: str) -> list[Event]:
        if self._open is None:
            return []
        kind, text, item = self._open.kind, self._open.text, self._open.item
        if kind == "function_call":
            events = [self._item_event("response.function_call_arguments.done", arguments=text)]
            item["arguments"] = text
        else:
            part = _part(kind, text)
            fields: dict[str, Any] = {"content_index": 0, "text": text}
            if kind == "message":
                fields["logprobs"] = []
            events = [
                self._item_event(f"response.{_PART[kind]}.done", **fields),
                self._item_event("response.content_part.done", content_index=0, part=part),
            ]
            item["content"] = [part]
        item["status"] = status
        events.append(self._event("response.output_item.done", output_index=len(self.output), item=item))
        self.output.append(item)
        self._open = None
        return events

    def _item_event(self, kind: str, **fields: Any) -> Event:
        assert self._open is not None
        return self._event(kind, item_id=self._open.item["id"], output_index=len(self.output), **fields)


_PART = {"message": "output_text", "reasoning": "reasoning_text"}


def _part(kind: str, text: str) -> dict[str, Any]:
    if kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _new_message() -> Item:
    return {
        "type": "message",
        "id": new_id("msg"),
        "status": "in_progress",
        "role": "assistant",
        "content": [],
    }


def _new_reasoning() -> Item:
    return {"type": "reasoning", "id": new_id("rs"), "status": "in_progress", "summary": [], "content": []}


_NEW_ITEM = {"message": _new_message, "reasoning": _new_reasoning}


def _new_call(call: ToolCallDelta) -> Item:
    return {
        "type": "function_call",
        "id": new_id("fc"),
        "status": "in_progress",
        "call_id": call.call_id or new_id("call"),
        "name": call.name or "",
        "arguments": "",
    }
