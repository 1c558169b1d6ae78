"""From vLLM's deltas to the Responses API's events and output items, in the order that its SDKs expect.

Events and items are the client's JSON. Invariants: `sequence_number` has no gaps, each item is opened and
closed once, every `done` event equals its deltas joined, ids do not change from `added` to `completed`.
"""

from collections.abc import Callable, Sequence
from typing import Any

from app.conversation import output
from app.conversation.engine import Delta, ToolCallDelta
from app.conversation.hosted_turn import HostedTurn
from app.conversation.output import (
    ApprovalWriter,
    CallWriter,
    CompactionWriter,
    Event,
    McpCallWriter,
    TextWriter,
)
from app.conversation.records import Item
from app.errors import EngineError


class EventAssembler:
    """Builds one response. `response` is its body without output, which the caller keeps up to date.

    seal: what becomes of a finished item before anybody sees it. summarise: reasoning is written as a summary
    rather than as reasoning text. begun: items of an attempt at the same response that broke off: theirs are
    the ids of those that come in the same places. hosted: the tools that are called here.
    """

    def __init__(
        self,
        response: dict[str, Any],
        *,
        seal: Callable[[Item], Item] | None = None,
        summarise: bool = False,
        begun: Sequence[Item] = (),
        hosted: HostedTurn | None = None,
    ) -> None:
        self._response = response
        self._seal = seal
        self._summarise = summarise
        self._begun = begun
        self._hosted = hosted
        self._sequence = 0
        self._open: TextWriter | CallWriter | CompactionWriter | None = None
        self._begins = 0
        self._held = ""
        self._logprobs: tuple[dict[str, Any], ...] = ()
        self._calls: set[int] = set()
        self.output: list[Item] = []
        self.to_run: list[Item] = []
        """Calls of this round that are written and not run: `finish` closes them."""

    def start(self) -> list[Event]:
        return [
            self._event({"type": kind, "response": self._snapshot()})
            for kind in ("response.created", "response.in_progress")
        ]

    def add(self, delta: Delta) -> list[Event]:
        """Raises EngineError where vLLM goes back to a call that it had left."""
        events: list[Event] = []
        # Tokens may come before the text that they are part of.
        self._logprobs += delta.logprobs
        if delta.reasoning:
            events += self._write("reasoning", delta.reasoning)
            if not delta.text:
                self._logprobs = ()
        if delta.text:
            self._held += delta.text
            events += self._write_text(between_calls=False)
        for call in delta.tool_calls:
            events += self._write_call(call)
        return events

    def begin_round(self) -> None:
        """Another answer follows: vLLM counts its calls from 0 again."""
        self._begins = len(self.output)
        self._calls.clear()
        self._held, self._logprobs = "", ()

    @property
    def in_a_call(self) -> bool:
        """Whether a call is being written of which something may be missing."""
        return isinstance(self._open, CallWriter) and not self._open.custom and not self._open.whole

    def end(self, status: str) -> list[Event]:
        """Close what is open.

        status: `completed` or `incomplete`, for the item that was being written. A call that is whole is
        completed in any case.
        """
        events = self._write_text(between_calls=True)
        of_round = status
        if isinstance(self._open, CallWriter) and self._open.whole:
            status = "completed"
        if self._open is None and len(self.output) == self._begins:
            # An answer of no tokens is still an answer: the history needs its message.
            events += self._begin(output.message())
        events += self._close(status)
        if of_round == "incomplete":
            # The model is not asked again: nobody would read what comes of its calls.
            for item in [*self.to_run]:
                item["status"] = of_round
                events += self.finish(item)
        return events

    def place(self, item: Item) -> list[Event]:
        """Add an item that the model does not write; `finish` closes it."""
        self._take_id(item)
        self.output.append(item)
        return [
            self._event(_added(item, len(self.output) - 1)),
            *self._of(item, f"response.{item['type']}.in_progress"),
        ]

    def call(self, writer: McpCallWriter, arguments: str) -> list[Event]:
        """Add a call that the model wrote in an earlier turn; `finish` closes it."""
        events = self._begin(writer)
        return events + self._within(writer.add(arguments)) + self._close("completed")

    def finish(self, item: Item) -> list[Event]:
        """Close an item that has all that it will have."""
        self.to_run = [waiting for waiting in self.to_run if waiting is not item]
        events: list[Event] = []
        if item.get("status") != "incomplete":
            event = "failed" if item["error"] else "completed"
            events = self._of(item, f"response.{item['type']}.{event}")
        done = {"type": "response.output_item.done", "output_index": self._place_of(item), "item": item}
        return [*events, self._event(done)]

    def compacting(self) -> list[Event]:
        """Open a compaction item; `compacted` closes it."""
        return self._begin(CompactionWriter())

    def compacted(self, sealed: str) -> list[Event]:
        assert isinstance(self._open, CompactionWriter)
        self._open.item["encrypted_content"] = sealed
        return self._close("completed")

    def final(self) -> Event:
        """The last event: `response.completed`, `.incomplete` or `.failed`, as the body's status says."""
        return self._event({"type": f"response.{self._response['status']}", "response": self._snapshot()})

    def _snapshot(self) -> dict[str, Any]:
        return {**self._response, "output": list(self.output)}

    def _event(self, event: Event) -> Event:
        numbered = {"type": event["type"], "sequence_number": self._sequence, **event}
        self._sequence += 1
        return numbered

    def _write_text(self, *, between_calls: bool) -> list[Event]:
        """Write the text that is held, if this is its place.

        vLLM's parsers give text that follows a call together with the rest of that call, or before it: until
        the call is whole, or the next begins, it waits. Of white space between calls nothing is made.
        """
        if isinstance(self._open, CallWriter):
            if not self._held.strip():
                self._held = "" if between_calls else self._held
                return []
            if not between_calls and not self._open.whole:
                return []
        if not self._held:
            return []
        events = self._write("message", self._held, self._logprobs)
        self._held, self._logprobs = "", ()
        return events

    def _write(self, kind: str, text: str, logprobs: tuple[dict[str, Any], ...] = ()) -> list[Event]:
        """Into the item of that type, a new one where another is open."""
        writer, events = self._open, []
        if not isinstance(writer, TextWriter) or writer.item["type"] != kind:
            reasoning = kind == "reasoning"
            writer = output.reasoning(summarise=self._summarise) if reasoning else output.message()
            events = self._begin(writer)
        return events + self._within(writer.add(text, logprobs))

    def _write_call(self, call: ToolCallDelta) -> list[Event]:
        writer, events = self._open, []
        if not isinstance(writer, CallWriter) or writer.index != call.index:
            if call.index in self._calls:
                if call.arguments.strip():
                    raise EngineError("vLLM went back to a tool call that it had left.")
                return []
            events = self._write_text(between_calls=True)
            writer = (self._hosted.writer(call) if self._hosted else None) or output.call(call)
            self._calls.add(call.index)
            events += self._begin(writer)
        self._logprobs = ()
        return events + self._within(writer.add(call.arguments))

    def _begin(self, writer: TextWriter | CallWriter | CompactionWriter) -> list[Event]:
        events = self._close("completed")
        self._open = writer
        return events if isinstance(writer, ApprovalWriter) else [*events, *self._opened(writer)]

    def _opened(self, writer: TextWriter | CallWriter | CompactionWriter) -> list[Event]:
        self._take_id(writer.item)
        return [self._event(_added(writer.item, len(self.output))), *self._within(writer.opened())]

    def _take_id(self, item: Item) -> None:
        if len(self.output) < len(self._begun):
            begun = self._begun[len(self.output)]
            if begun["type"] == item["type"]:
                item |= {name: begun[name] for name in ("id", "call_id") if name in begun}

    def _close(self, status: str) -> list[Event]:
        events: list[Event] = []
        if isinstance(self._open, ApprovalWriter):
            events += self._ask_or_call(self._open)
        if self._open is None:
            return events
        writer = self._open
        events += self._within(writer.closed())
        item, self._open = writer.item, None
        if isinstance(writer, McpCallWriter) and status == "completed":
            self.output.append(item)
            self.to_run.append(item)
            return events
        if "status" in item or status == "incomplete":
            item["status"] = status
        if self._seal is not None:
            item = self._seal(item)
        done = {"type": "response.output_item.done", "output_index": len(self.output), "item": item}
        events.append(self._event(done))
        self.output.append(item)
        return events

    def _ask_or_call(self, writer: ApprovalWriter) -> list[Event]:
        """The client is asked about a call that is whole. About another nobody is asked: it will fail."""
        if writer.whole:
            writer.closed()
            return self._opened(writer)
        self._open = call = McpCallWriter(writer.index, writer.item["server_label"], writer.item["name"])
        return [*self._opened(call), *self._within(call.add(writer.text))]

    def _place_of(self, item: Item) -> int:
        return next(place for place, other in enumerate(self.output) if other is item)

    def _of(self, item: Item, kind: str) -> list[Event]:
        """An event of an item that has its place."""
        place = {"item_id": item["id"], "output_index": self._place_of(item)}
        return [self._event({"type": kind, **place})]

    def _within(self, events: list[Event]) -> list[Event]:
        """Events of the item that is being written."""
        assert self._open is not None
        place = {"item_id": self._open.item["id"], "output_index": len(self.output)}
        return [self._event({**event, **place}) for event in events]


def _added(item: Item, place: int) -> Event:
    return {"type": "response.output_item.added", "output_index": place, "item": dict(item)}
