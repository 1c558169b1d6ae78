"""`truncation: auto`: leaving out the oldest items until the conversation fits the model."""

from collections.abc import Sequence

from app.conversation.approvals import REQUEST, RESPONSE, responses
from app.conversation.engine import Generation, Whole, Worker
from app.conversation.inputs import CALLS, answered, is_told, is_users
from app.conversation.records import Item, Segment
from app.errors import ContextLengthExceeded

REASON = "truncated"


async def fitting(worker: Worker, generation: Generation, prompt: Whole, *, steps: bool = False) -> Whole:
    """The prompt with as few of its oldest items left out as will do.

    It is cut before user messages that no call waits across, so that no tool output loses its call; system
    and developer messages stay. An eighth of the context is left for the answer. Nothing of it is kept as a
    prefix: it is not the conversation's. Raises ContextLengthExceeded where the last user message and what
    follows do not fit.

    steps: it may be cut before what the model said as well, with the user's words that it was said to, and
    something is left besides the last two items.
    """
    items = [i for segment in prompt.history for i in (*segment.input_items, *segment.output_items)]
    items += prompt.new_input
    starts = _starts(items, steps=steps)
    if steps:
        starts = [start for start in starts if start < len(items) - 2]
    most = worker.context_length - worker.context_length // 8

    def cut(start: int) -> Whole:
        left = (*filter(is_told, items[:start]), *(_words(items, start) if steps else ()), *items[start:])
        return Whole((Segment(left, ()),), (), None, REASON)

    async def fits(start: int) -> bool:
        return await worker.count(generation, cut(start)) <= most

    # The later the cut, the shorter the prompt: the first that fits is found by halving.
    low, high = 0, len(starts)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if await fits(starts[middle]) else (middle + 1, high)
    if low == len(starts):
        raise ContextLengthExceeded(
            "The conversation does not fit the model's context, even without its earlier items.",
            param="input",
        )
    return cut(starts[low])


def _starts(items: Sequence[Item], *, steps: bool) -> list[int]:
    """Where a conversation could begin as well: at user messages outside of a call and its output; with
    `steps`, at what the model begins after an output as well."""
    starts, waiting, outputs, approvals = [], set[str](), answered(items), responses(items)
    for position, item in enumerate(items):
        after_output = steps and position > 0 and items[position - 1]["type"] in CALLS.values()
        if not waiting and (is_users(item) or (after_output and item["type"] not in CALLS.values())):
            starts.append(position)
        if item["type"] in CALLS and item["call_id"] in outputs:
            waiting.add(item["call_id"])
        elif item["type"] in CALLS.values():
            waiting.discard(item["call_id"])
        elif item["type"] == REQUEST and item["id"] in approvals:
            waiting.add(item["id"])
        elif item["type"] == RESPONSE:
            waiting.discard(item["approval_request_id"])
    return starts


def _words(items: Sequence[Item], start: int) -> list[Item]:
    """The user's last before `start`, where that is not his own."""
    return [] if is_users(items[start]) else [item for item in items[:start] if is_users(item)][-1:]
