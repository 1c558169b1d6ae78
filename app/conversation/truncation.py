"""`truncation: auto`: leaving out the oldest items until the conversation fits the model."""

from collections.abc import Sequence

from app.conversation.engine import Generation, Whole, Worker
from app.conversation.inputs import CALLS, answered
from app.conversation.records import Item, Segment
from app.errors import ContextLengthExceeded

REASON = "truncated"


async def fitting(worker: Worker, generation: Generation, prompt: Whole) -> Whole:
    """The prompt with as few of its oldest items left out as will do.

    It is cut before user messages that no call waits across, so that no tool output loses its call; system
    and developer messages stay. An eighth of the context is left for the answer. Nothing of it is kept as a
    prefix: it is not the conversation's. Raises ContextLengthExceeded where the last user message and what
    follows do not fit.
    """
    items = [i for segment in prompt.history for i in (*segment.input_items, *segment.output_items)]
    items += prompt.new_input
    starts = _starts(items)
    most = worker.context_length - worker.context_length // 8

    def cut(start: int) -> Whole:
        kept = Segment(tuple(_instructions(items[:start]) + items[start:]), ())
        return Whole((kept,), (), None, REASON)

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


def _starts(items: Sequence[Item]) -> list[int]:
    """Where a conversation could begin as well: at user messages outside of a call and its output."""
    starts, waiting, outputs = [], set[str](), answered(items)
    for position, item in enumerate(items):
        if item["type"] in CALLS and item["call_id"] in outputs:
            waiting.add(item["call_id"])
        elif item["type"] in CALLS.values():
            waiting.discard(item["call_id"])
        elif not waiting and item["type"] == "message" and item["role"] == "user":
            starts.append(position)
    return starts


def _instructions(items: Sequence[Item]) -> list[Item]:
    return [i for i in items if i["type"] == "message" and i["role"] in ("system", "developer")]
