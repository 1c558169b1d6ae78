"""Repeating an answer that broke off, so that those who read it see one seamless stream.

An answer in the background is logged as it comes. Where an attempt broke off, the next one generates the
answer anew: what the log has of it already is dropped here, and the rest follows on. Its chunks may lie
elsewhere, its words may not.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from app.conversation.output import Event
from app.conversation.records import Item

OPENINGS = frozenset({"response.created", "response.queued", "response.in_progress"})
"""Each comes once, whatever the attempts."""

_UNEQUAL = frozenset({"sequence_number", "logprobs", "encrypted_content"})
"""What may differ where two answers say the same: places in the log, last digits, and nonces."""


class Contradicted(Exception):
    """The repetition says something else than what may have been read already."""


def calls_tools(events: Iterable[Event]) -> bool:
    """Whether a call is among them that is made here: what it does, it would do twice."""
    added = (event["item"] for event in events if event["type"] == "response.output_item.added")
    return any(item["type"] == "mcp_call" for item in added)


@dataclass(slots=True)
class _Run:
    """Deltas in a row of one text, as far as the repetition has not yet come to them.

    tokens: how many log probabilities came with them.
    """

    place: dict[str, Any]
    text: str
    tokens: int


class Replay:
    """Give `add` an answer's events from the first on; what it returns is numbered and goes to the log."""

    def __init__(self, logged: Sequence[Event]) -> None:
        self._next = logged[-1]["sequence_number"] + 1 if logged else 0
        self._opened = {event["type"] for event in logged} & OPENINGS
        self._before = _runs(event for event in logged if event["type"] not in OPENINGS)
        self._tokens: list[Any] = []
        """Log probabilities that are not in the log, of text that is."""
        self.items: tuple[Item, ...] = tuple(
            event["item"] for event in logged if event["type"] == "response.output_item.added"
        )
        """Those that were opened before, in order."""

    def add(self, events: Iterable[Event]) -> list[Event]:
        """Those that the log has not. Raises Contradicted."""
        return [self._number(new) for event in events if (new := self._new_of(event)) is not None]

    def end(self) -> None:
        """The answer is whole. Raises Contradicted where the log has more of it."""
        self._skip_read()
        if self._before:
            raise Contradicted

    def last(self, event: Event) -> Event:
        """The event that ends the log, numbered. Where it cannot be written, another may be the last."""
        return {"type": event["type"], **event, "sequence_number": self._next}

    def _number(self, event: Event) -> Event:
        numbered = self.last(event)
        self._next += 1
        return numbered

    def _new_of(self, event: Event) -> Event | None:
        if event["type"] in OPENINGS:
            known = event["type"] in self._opened
            self._opened.add(event["type"])
            return None if known else event
        if not self._before and not self._tokens:
            return event
        return self._new_of_delta(event) if _is_delta(event) else self._new_of_other(event)

    def _new_of_delta(self, event: Event) -> Event | None:
        text, tokens = event["delta"], [*self._tokens, *event.get("logprobs", ())]
        if not text:
            self._tokens = tokens
            return None
        self._tokens = []
        if self._before:
            run = self._before[0]
            if not isinstance(run, _Run) or run.place != _place(event):
                raise Contradicted
            common = min(len(text), len(run.text))
            if text[:common] != run.text[:common] or (len(text) > common and len(self._before) > 1):
                raise Contradicted
            text, run.text = text[common:], run.text[common:]
            read = min(len(tokens), run.tokens)
            tokens, run.tokens = tokens[read:], run.tokens - read
            if not run.text and not run.tokens:
                self._before.popleft()
        if not text:
            self._tokens = [] if self._before else tokens
            return None
        return {**event, "delta": text} | ({"logprobs": tokens} if "logprobs" in event else {})

    def _new_of_other(self, event: Event) -> Event | None:
        self._tokens = []
        self._skip_read()
        if not self._before:
            return event
        before = self._before.popleft()
        if isinstance(before, _Run) or before != _essence(event):
            raise Contradicted
        return None

    def _skip_read(self) -> None:
        """A text that was read to its end, if fewer log probabilities came with it this time."""
        if self._before and isinstance(run := self._before[0], _Run) and not run.text:
            self._before.popleft()


def _runs(events: Iterable[Event]) -> deque[_Run | Event]:
    runs: deque[_Run | Event] = deque()
    for event in events:
        if not _is_delta(event):
            runs.append(_essence(event))
            continue
        tokens = len(event.get("logprobs", ()))
        if runs and isinstance(last := runs[-1], _Run) and last.place == _place(event):
            last.text += event["delta"]
            last.tokens += tokens
        else:
            runs.append(_Run(_place(event), event["delta"], tokens))
    return runs


def _is_delta(event: Event) -> bool:
    return isinstance(event.get("delta"), str)


def _place(event: Event) -> dict[str, Any]:
    return {name: value for name, value in _essence(event).items() if name != "delta"}


def _essence(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _essence(part) for name, part in value.items() if name not in _UNEQUAL}
    return [_essence(part) for part in value] if isinstance(value, list) else value
