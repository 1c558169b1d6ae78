"""`truncation: auto`: leaving out the oldest items until the conversation fits the model."""

from collections.abc import Sequence

from app.conversation.engine import Generation, Whole, Worker
from app.conversation.records import Item, Segment
from app.errors import ContextLengthExceeded

REASON = "truncated"


async def fitting(worker: Worker, generation: Generation, prompt: Whole) -> Whole:
    """The prompt with as few of its oldest items left out as will do.

    It is cut before user messages only, so that no tool output loses its call; system and developer messages
    stay. Where the request names no `max_output_tokens`, an eighth of the context is left for the answer.
    Nothing of it is kept as a prefix: it is not the conversation's. Raises ContextLengthExceeded where the
    last user message and what follows do not fit.
    """
    items = [i for segment in prompt.history for i in (*segment.input_items, *segment.output_items)]
    items += prompt.new_input
    starts = [n for n, item in enumerate(items) if item["type"] == "message" and item["role"] == "user"]
    most = worker.context_length(generation.model) - room(worker, generation)

    def cut(start: int) -> Whole:
        kept = Segment(tuple(_instructions(items[:start]) + items[start:]), ())
        return Whole((kept,), (), None, REASON)

    async def fits(start: int) -> bool:
        return await worker.count(generation, cut(start)) <= most

    # The later the cut, the shorter the prompt: the first that fits is found by halving.
    low, high = 0, len(starts) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if await fits(starts[middle]) else (middle + 1, high)
    if high < 0 or not await fits(starts[low]):
        raise ContextLengthExceeded(
            "The conversation does not fit the model's context, even without its earlier items.",
            param="input",
        )
    return cut(starts[low])


def room(worker: Worker, generation: Generation) -> int:
    """Tokens that a truncated prompt leaves for its answer."""
    return generation.options.max_output_tokens or worker.context_length(generation.model) // 8


def _instructions(items: Sequence[Item]) -> list[Item]:
    return [i for i in items if i["type"] == "message" and i["role"] in ("system", "developer")]
