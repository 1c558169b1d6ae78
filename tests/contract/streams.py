"""A stream of events: each of the SDK's type, all in the order and with the sums that it promises."""

from dataclasses import dataclass, field
from typing import Any

from openai.types.responses import ResponseStreamEvent

from tests.contract.answers import OURS, check_response
from tests.contract.strict import adapter, check

Event = dict[str, Any]

_event = adapter(ResponseStreamEvent, **OURS)

TERMINAL = ("response.completed", "response.incomplete", "response.failed", "error")
PARTS = {"response.content_part": "content", "response.reasoning_summary_part": "summary"}
"""What an item consists of, by the list of the item that holds it."""
TEXTS = {
    "response.output_text": ("text", "content"),
    "response.refusal": ("refusal", "content"),
    "response.reasoning_text": ("text", "content"),
    "response.reasoning_summary_text": ("text", "summary"),
    "response.function_call_arguments": ("arguments", None),
    "response.custom_tool_call_input": ("input", None),
}
"""What comes in deltas: the field that holds the whole, and the list of the item that its part is in."""
INNER = {
    "function_call": "response.function_call_arguments",
    "custom_tool_call": "response.custom_tool_call_input",
}
UNCHANGED = (
    "id",
    "object",
    "created_at",
    "model",
    "instructions",
    "tools",
    "tool_choice",
    "text",
    "metadata",
)
Place = tuple[str, int | None]


def check_event(event: Event) -> None:
    """One event by itself, a whole response in it included."""
    check(_event, event, f"the event {event.get('type')}")
    if "response" in event:
        check_response(event["response"])
        _, status = event["type"].split(".")
        expected = "in_progress" if status == "created" else status
        assert event["response"]["status"] == expected, (event["type"], event["response"]["status"])


def check_stream(events: list[Event], *, cut: bool = False) -> None:
    """All events of one stream. `cut`: the client hung up, so that an end may be missing."""
    for event in events:
        check_event(event)
    kinds = [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert kinds[:2] == ["response.created", "response.in_progress"][: len(kinds) if cut else 2], kinds[:3]
    assert not {"response.created", "response.in_progress"} & set(kinds[2:]), kinds
    early = [kind for kind in kinds[:-1] if kind in TERMINAL]
    assert early in ([], ["error"]), f"after the end came more: {kinds}"
    assert cut or kinds[-1] in TERMINAL, f"the stream does not end: {kinds[-1]}"

    responses = [event["response"] for event in events if "response" in event]
    for response in responses:
        assert {n: response[n] for n in UNCHANGED} == {n: responses[0][n] for n in UNCHANGED}
    assert all(response["output"] == [] for response in responses if response["status"] == "in_progress")

    output = _Output()
    for event in events:
        output.see(event)
    if not cut and kinds[-1] != "error":
        assert kinds[-1] == "response.failed" or not output.open, f"never done: {list(output.open)}"
        done = [output.done[index] for index in sorted(output.done)]
        assert responses[-1]["output"] == done, "the final output is not the items that were done"


@dataclass
class _Item:
    """An output item that was added and is not done."""

    added: dict[str, Any]
    parts: dict[Place, dict[str, Any] | None] = field(default_factory=dict)
    """By list and index: the part once it is done, until then None."""
    deltas: dict[tuple[str, int | None], list[Event]] = field(default_factory=dict)
    whole: dict[tuple[str, int | None], str] = field(default_factory=dict)


class _Output:
    """Follows the items of a stream; every assertion names the event that broke it."""

    def __init__(self) -> None:
        self.open: dict[int, _Item] = {}
        self.done: dict[int, dict[str, Any]] = {}

    def see(self, event: Event) -> None:
        name, _, phase = event["type"].rpartition(".")
        if name == "response.output_item":
            (self._added if phase == "added" else self._done)(event)
        elif "output_index" in event:
            item = self.open.get(event["output_index"])
            assert item, f"no item is open at this index: {event}"
            assert event["item_id"] == item.added["id"], f"another item's id: {event}"
            if name in PARTS:
                _see_part(item, PARTS[name], phase, event)
            else:
                assert name in TEXTS, f"what is this event for? {event}"
                _see_text(item, name, phase, event)

    def _added(self, event: Event) -> None:
        index, item = event["output_index"], event["item"]
        assert index == len(self.open) + len(self.done), f"items are counted from 0 without gaps: {event}"
        assert item.get("status", "in_progress") == "in_progress", event
        empty = {"message": ["content"], "function_call": ["arguments"], "custom_tool_call": ["input"]}
        assert not any(item[name] for name in empty.get(item["type"], ["summary"])), (
            f"filled already: {event}"
        )
        self.open[index] = _Item(item)

    def _done(self, event: Event) -> None:
        index, item = event["output_index"], event["item"]
        opened = self.open.pop(index, None)
        assert opened, f"no item is open at this index: {event}"
        for name in ("id", "type", "role", "call_id", "name"):
            assert item.get(name) == opened.added.get(name), f"{name} has changed: {opened.added} -> {item}"
        assert item.get("status", "completed") != "in_progress", event
        assert opened.deltas.keys() <= opened.whole.keys(), f"deltas without their done: {event}"
        if inner := INNER.get(item["type"]):
            assert opened.whole.get((inner, None)) == item[TEXTS[inner][0]], f"not its deltas: {event}"
        for holder in ("content", "summary"):
            parts = [part for (where, _), part in sorted(opened.parts.items()) if where == holder]
            assert parts == (item.get(holder) or []), f"not the parts that were done: {event}"
        self.done[index] = item


def _see_part(item: _Item, holder: str, phase: str, event: Event) -> None:
    index = event[f"{holder}_index"]
    place = (holder, index)
    if phase == "added":
        assert index == sum(where == holder for where, _ in item.parts), f"parts are counted from 0: {event}"
        item.parts[place] = None
        text = event["part"].get("text", event["part"].get("refusal"))
        assert text == "", f"a part begins empty: {event}"
        return
    assert item.parts.get(place, "missing") is None, f"not open: {event}"
    item.parts[place] = part = event["part"]
    (name,) = [n for n, (_, where) in TEXTS.items() if where == holder and _holds(n, part)]
    assert item.whole.get((name, index)) == part[TEXTS[name][0]], f"not its text: {event}"
    logprobs = [token for delta in item.deltas.get((name, index), []) for token in delta.get("logprobs", [])]
    assert _tokens(part.get("logprobs")) == _tokens(logprobs), f"not its log probabilities: {event}"


def _see_text(item: _Item, name: str, phase: str, event: Event) -> None:
    whole, holder = TEXTS[name]
    index = event[f"{holder}_index"] if holder else None
    if holder:
        assert item.parts.get((holder, index), "missing") is None, f"its part is not open: {event}"
    else:
        assert INNER.get(item.added["type"]) == name, f"not for a {item.added['type']}: {event}"
    assert (name, index) not in item.whole, f"after its done: {event}"
    if phase == "delta":
        assert event["delta"], f"an empty delta says nothing: {event}"
        item.deltas.setdefault((name, index), []).append(event)
        return
    deltas = item.deltas.get((name, index), [])
    assert event[whole] == "".join(delta["delta"] for delta in deltas), f"not its deltas: {event}"
    logprobs = [token for delta in deltas for token in delta.get("logprobs", [])]
    assert event.get("logprobs", []) == logprobs, f"not its deltas' log probabilities: {event}"
    item.whole[name, index] = event[whole]


def _holds(name: str, part: dict[str, Any]) -> bool:
    kinds = {"summary_text": "response.reasoning_summary_text"}
    return kinds.get(part["type"], f"response.{part['type']}") == name


def _tokens(logprobs: list[dict[str, Any]] | None) -> list[tuple[str, float]]:
    return [(token["token"], token["logprob"]) for token in logprobs or []]
