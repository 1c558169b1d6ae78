"""Making a compaction: the model summarises what came before, from where the conversation stands."""

from dataclasses import dataclass, replace
from typing import Any

from app.conversation.asking import Asked, Asking
from app.conversation.compaction import (
    Compacted,
    goes_on,
    kept,
    opener,
    reduced,
    request_of_summary,
    unanswered,
)
from app.conversation.engine import Generation, Outcome, Usage
from app.conversation.options import Options
from app.conversation.records import Item
from app.conversation.sealing import Sealing
from app.errors import EngineError, InvalidRequest

SUMMARY_TOKENS = 4096
"""A summary's at the most, with the reasoning before it."""
_PART_OF_PROMPT, _PART_OF_CONTEXT, _LEAST_TOKENS = 4, 8, 64
"""It is a quarter of what it replaces at the most, and of the context what truncation leaves an answer."""
_OF_THE_PROMPT = ("chat_template_kwargs", "priority", "seed")
"""vLLM's fields that a summary is made with as well: the others are about the answer that was asked for."""


@dataclass(frozen=True, slots=True)
class Summarised:
    """A compaction that was made, sealed, and what the summary cost."""

    sealed: str
    usage: Usage
    outcome: Outcome


class Compactor:
    """Compacts what a turn is asked with."""

    def __init__(self, asking: Asking, asked: Asked, sealing: Sealing) -> None:
        self._asking = asking
        self._asked = asked
        self._sealing = sealing
        self._tokens: int | None = None

    async def is_due(self, written: tuple[Item, ...]) -> bool:
        """Whether the prompt has as many tokens as the request says, and there is an answer to summarise.
        written: the turn's output up to now. Raises as Asking.count does."""
        at = self._asked.request.compact_at
        if at is None or await self._count(written) < at:
            return False
        items = await self._items(written)
        return goes_on(items) > 0

    async def compact(self, written: tuple[Item, ...] = ()) -> Summarised:
        """Raises as Asking.first does; EngineError where the model writes nothing, InvalidRequest where there
        is nothing to write about."""
        asked, asking = self._asked, self._asking
        items = await self._items(written)
        if not items:
            raise InvalidRequest("There is nothing to compact.", param="input")
        new = _said((*asked.input, *written))
        # Where nothing was answered yet, all of it is summarised, and nothing goes on.
        start, waiting = goes_on(items) or len(items), unanswered(new)
        if unanswered(items) == len(items):
            waiting = 0
        before = items[: len(items) - waiting]
        said = (*new[: len(new) - waiting], *request_of_summary(before))
        answer = await asking.aside(self._generation(await self._count(written)), said)
        text, reasoning = "", ""
        async for delta in answer.deltas():
            text += delta.text
            reasoning += delta.reasoning
        await asking.aclose()
        # A model that only thought has thought about the conversation.
        summary = text.strip() or reasoning.strip()
        if not summary:
            raise EngineError("The model wrote no summary of the conversation.")
        sealer = await self._sealing.compactions()
        compacted = Compacted(summary, kept(items, start))
        return Summarised(sealer.seal(asked.tenant, compacted.as_json()), answer.usage, answer.outcome)

    async def _items(self, written: tuple[Item, ...]) -> tuple[Item, ...]:
        """What the conversation is made of since its last summary."""
        open_ = await opener(self._sealing, self._asked.tenant)
        return _said(reduced((*await self._asking.items(), *written), open_)[1])

    async def _count(self, written: tuple[Item, ...]) -> int:
        if self._tokens is None:
            self._tokens = await self._asking.count_all(written)
        return self._tokens

    def _generation(self, tokens: int) -> Generation:
        """tokens: of the prompt as it is."""
        most = [
            SUMMARY_TOKENS,
            self._asking.worker.context_length // _PART_OF_CONTEXT,
            max(tokens // _PART_OF_PROMPT, _LEAST_TOKENS),
        ]
        if self._asked.request.compact and (limit := self._asked.request.options.max_output_tokens):
            most.append(limit)
        options = _of_summary(self._asking.generation.options, min(most))
        return replace(self._asking.generation, options=options, keep_ids=False, compare=None, said=None)


def options_of(body: dict[str, Any], options: Options) -> Options:
    """Such that the prompt begins as the response's did, whose `body` it is: its prefix can be gone on
    from. MCP servers are not asked for their tools, and none is to be called."""
    own = tuple(tool for tool in body["tools"] if tool["type"] in ("function", "custom"))
    return replace(
        options,
        instructions=options.instructions or body["instructions"],
        tools=replace(options, tools=own, tool_choice=body["tool_choice"]).offered_tools,
        tool_choice="none",
        verbosity=None if body["text"]["verbosity"] == "medium" else body["text"]["verbosity"],
        reasoning_effort=(body.get("reasoning") or {}).get("effort"),
    )


def _said(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """Without lists of servers' tools: nobody says those, and no prompt has them."""
    return tuple(item for item in items if item["type"] != "mcp_list_tools")


def _of_summary(options: Options, max_tokens: int) -> Options:
    """The same prompt, tools in it included, for plain text."""
    extras: dict[str, Any] = {n: v for n, v in options.extras.items() if n in _OF_THE_PROMPT}
    return replace(
        options,
        tools=options.offered_tools,
        tool_choice="none",
        temperature=0 if options.temperature is None else options.temperature,
        max_output_tokens=max_tokens,
        text_format={"type": "text"},
        top_logprobs=None,
        extras=extras,
    )
