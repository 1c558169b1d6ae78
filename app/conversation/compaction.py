"""Compaction: one item that stands for all that comes before it, in an input and in a chain of turns alike.

Sealed in it are a summary, which the model wrote, and the items that go on as they were: system and developer
messages, what nothing was answered to yet, and a call whose output may still come. Whoever passes on the item
passes on all of it, whether or not he drops what is before it.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.conversation.inputs import CALLS, is_told, is_users
from app.conversation.records import Item, Segment, TenantId
from app.conversation.sealing import Sealing

KIND = "compaction"

INSTRUCTION = (
    "Summarise this conversation. Your summary will take the place of all that is above, for somebody who "
    "goes on with it and sees nothing else. Write down what the user wants and has said about it; what was "
    "found out, decided and done, with the results; names, numbers, paths, code and wording that will be "
    "needed; and what remains to be done. Where there is a summary of an earlier part already, take over "
    "what still matters. Answer no question, call no tool, and write nothing but the summary."
)
PAUSE = "I will go on once the conversation so far is summarised."
"""Said by the model before the instruction, where words before it were not answered: many templates want the
roles to alternate."""

_ANSWERS = {
    **dict.fromkeys(CALLS.values(), "call_id"),
    "mcp_approval_response": "approval_request_id",
    # Without the field, it is a call that nobody was asked about.
    "mcp_call": "approval_request_id",
}
_ASKS = {**dict.fromkeys(CALLS, "call_id"), "mcp_approval_request": "id"}
"""Kinds of items that answer others, and that are answered, each with the field that says which."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction item stands for. kept: the items that go on as they were."""

    summary: str
    kept: tuple[Item, ...]

    def as_json(self) -> str:
        return json.dumps({"summary": self.summary, "kept": self.kept}, ensure_ascii=False)

    @classmethod
    def of_json(cls, text: str) -> "Compacted":
        sealed = json.loads(text)
        return cls(sealed["summary"], tuple(sealed["kept"]))


Open = Callable[[Item], Compacted]
"""Reads a compaction item."""


async def opener(sealing: Sealing, tenant: TenantId) -> Open:
    """Of the tenant's compaction items. Raises StoreUnavailable; what it gives, InvalidEncryptedContent."""
    sealer = await sealing.compactions()
    return lambda item: Compacted.of_json(sealer.open(tenant, item["encrypted_content"]))


def has_compaction(items: Sequence[Item]) -> bool:
    return any(item["type"] == KIND for item in items)


def since_compaction(items: Sequence[Item]) -> tuple[Item, ...]:
    """What follows the last compaction item; everything, where there is none."""
    return tuple(items[_last(items) + 1 :])


def reduced(items: Sequence[Item], open_: Open) -> tuple[str | None, tuple[Item, ...]]:
    """The summary that `items` begin with by their last compaction, if they have one, and what is besides it.

    System and developer messages before it that it knows nothing of stay: nobody meant them to be forgotten.
    """
    last = _last(items)
    if last < 0:
        return None, tuple(items)
    found = open_(items[last])
    known = [_said(item) for item in found.kept if is_told(item)]
    told = (item for item in items[:last] if is_told(item) and _said(item) not in known)
    return found.summary, (*told, *found.kept, *items[last + 1 :])


def standing(items: Sequence[Item], open_: Open) -> tuple[Item, ...]:
    """The plain items that `items` mean: the summary as the user's words, in one message with those that
    follow."""
    summary, rest = reduced(items, open_)
    if summary is None:
        return rest
    told = next((place for place, item in enumerate(rest) if not is_told(item)), len(rest))
    text = f"The conversation before this was replaced by its summary:\n<summary>\n{summary}\n</summary>"
    first = rest[told] if told < len(rest) else {}
    if first.get("type") != "message" or first["role"] != "user":
        return (*rest[:told], _message("user", text), *rest[told:])
    return (*rest[:told], {**first, "content": _after(text, first["content"])}, *rest[told + 1 :])


def expand(
    history: Sequence[Segment], new: Sequence[Item], open_: Open
) -> tuple[tuple[Segment, ...], tuple[Item, ...]]:
    """A conversation without its compaction items: it begins with what the last one stands for.

    What came after that keeps its places, turn by turn and side by side: where a turn continued by reference,
    its messages were made of each side by itself.
    """
    before: list[Item] = []
    found: tuple[int, list[Item], bool] | None = None
    for turn, segment in enumerate(history):
        for side, ends in ((segment.input_items, False), (segment.output_items, True)):
            before += side
            if has_compaction(side):
                found = turn, list(before), ends
    before += new
    if has_compaction(new):
        return (), standing(before, open_)
    if found is None:
        return tuple(history), tuple(new)
    turn, items, ends = found
    output = history[turn].output_items
    if not ends:
        return (Segment(standing(items, open_), output), *history[turn + 1 :]), tuple(new)
    after = since_compaction(output)
    head = items[: len(items) - len(after)]
    if after:
        return (Segment(standing(head, open_), after), *history[turn + 1 :]), tuple(new)
    # Nothing was answered to the summary: it belongs to what was said next.
    if turn + 1 == len(history):
        return (), standing([*head, *new], open_)
    following = history[turn + 1]
    first = Segment(standing([*head, *following.input_items], open_), following.output_items)
    return (first, *history[turn + 2 :]), tuple(new)


def goes_on(items: Sequence[Item]) -> int:
    """Where in `items`, which have no compaction, begins what must go on as it is: what nothing of the
    model's follows, and the steps of the model that ask for what is answered there or not yet."""
    start = len(items)
    while start and not _is_models(items[start - 1]):
        start -= 1
    answers: dict[tuple[str, str], int] = {}
    for place in range(len(items) - 1, -1, -1):
        item = items[place]
        if answered := _answered(item):
            answers[answered] = place
        elif field := _ASKS.get(item["type"]):
            answer = answers.pop(("approval_request_id" if field == "id" else field, item[field]), None)
            if answer is None:
                waits = item["type"] in CALLS and item.get("status") != "incomplete"
            else:
                waits = answer >= start
            if waits and place < start:
                start = place
                while start and _is_models(items[start - 1]):
                    start -= 1
    return start


def unanswered(items: Sequence[Item]) -> int:
    """How many messages at the end are not the model's."""
    count = 0
    while count < len(items) and items[-1 - count]["type"] == "message" and not _is_models(items[-1 - count]):
        count += 1
    return count


def kept(items: Sequence[Item], start: int) -> tuple[Item, ...]:
    """Of `items`, those that go on where all before `start` is summarised. Where that begins in the middle of
    the model's work, the last words of the user as well: they are what it works on."""
    before, after = items[:start], tuple(items[start:])
    told = [item for item in before if is_told(item)]
    asked = [item for item in before if is_users(item)]
    if not after or any(map(is_users, after)):
        asked = []
    return (*told, *asked[-1:], *after)


def request_of_summary(before: Sequence[Item]) -> tuple[Item, ...]:
    """What is said to the model after `before`, for it to write the summary."""
    instruction = _message("user", INSTRUCTION)
    if before and _is_models(before[-1]):
        return (instruction,)
    pause = {**_message("assistant", ""), "content": [{"type": "output_text", "text": PAUSE}]}
    return (pause, instruction)


def _is_models(item: Item) -> bool:
    if item["type"] == "message":
        return bool(item["role"] == "assistant")
    return _answered(item) is None and item["type"] != KIND


def _answered(item: Item) -> tuple[str, str] | None:
    """What the item answers, if it does: the field that says so, and its value."""
    field = _ANSWERS.get(item["type"])
    if field is None or item.get(field) is None:
        return None
    return field, item[field]


def _last(items: Sequence[Item]) -> int:
    return next((place for place in range(len(items) - 1, -1, -1) if items[place]["type"] == KIND), -1)


def _said(message: Item) -> tuple[str, Any]:
    return message["role"], message["content"]


def _message(role: str, text: str) -> Item:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}


def _after(text: str, content: Any) -> list[dict[str, Any]]:
    """Parts of a message that begins with `text`: one, where there is nothing but text."""
    parts = [{"type": "input_text", "text": content}] if isinstance(content, str) else content
    if parts[0]["type"] != "input_text":
        return [{"type": "input_text", "text": text}, *parts]
    return [{"type": "input_text", "text": f"{text}\n\n{parts[0]['text']}"}, *parts[1:]]
