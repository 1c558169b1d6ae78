"""What the rounds of a turn cost and did with their prefixes: one, or more where tools are called here.

Before them there may be a summary of what came before.
"""

from typing import Any

from app.conversation.engine import Outcome, Usage
from app.conversation.records import Item, Parent


class Rounds:
    """Grows by a round at a time."""

    def __init__(self) -> None:
        self._usages: list[Usage] = []
        self._outcomes: list[Outcome] = []
        self._places: list[int] = []
        self._compaction: tuple[Usage, Outcome] | None = None

    def compacted(self, usage: Usage, outcome: Outcome) -> None:
        """Count the summary."""
        self._compaction = usage, outcome

    def add(self, usage: Usage, outcome: Outcome, output_index: int = 0) -> None:
        """output_index: how many of the turn's output items the round's prompt had already."""
        self._usages.append(usage)
        self._outcomes.append(outcome)
        self._places.append(output_index)

    @property
    def first(self) -> Outcome:
        return self._outcomes[0]

    @property
    def last(self) -> Outcome:
        return self._outcomes[-1]

    @property
    def first_usage(self) -> Usage:
        return self._usages[0]

    @property
    def path(self) -> str | None:
        """The first round's, which tells what became of the conversation's prefix."""
        return self._outcomes[0].path if self._outcomes else None

    @property
    def reason(self) -> str | None:
        return self._outcomes[0].reason if self._outcomes else None

    @property
    def usage(self) -> Usage:
        """Of all rounds, and the summary: each is a prompt and an answer of its own."""
        usages = [*self._usages, *([self._compaction[0]] if self._compaction else [])]
        return Usage(
            input_tokens=sum(u.input_tokens for u in usages),
            cached_tokens=sum(u.cached_tokens for u in usages),
            cache_write_tokens=sum(u.cache_write_tokens for u in usages),
            output_tokens=sum(u.output_tokens for u in usages),
            reasoning_tokens=sum(u.reasoning_tokens for u in usages),
        )

    @property
    def answered_tokens(self) -> int:
        """Of the answers alone: what a limit of them is about."""
        return sum(u.output_tokens for u in self._usages)

    @property
    def seed(self) -> bytes | None:
        """Of all rounds: what each of them added is needed to have the last one's prompt."""
        return b"".join(outcome.seed or b"" for outcome in self._outcomes) or None

    @property
    def caching(self) -> dict[str, Any]:
        """What the turn did with its prefix. `rounds`, where there are several: each one's own; `compaction`,
        where there was one: the summary's, with its tokens."""
        each = [_as_json(outcome) for outcome in self._outcomes]
        said = each[0]
        if any(self._places):
            each = [{"output_index": at, **one} for at, one in zip(self._places, each, strict=True)]
            counts = ("reused_tokens", "tokenized_tokens", "sampled_reused")
            said = {**said, **{name: sum(one[name] for one in each) for name in counts}, "rounds": each}
        if self._compaction is None:
            return said
        usage, outcome = self._compaction
        tokens = {"input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens}
        return {**said, "compaction": {**_as_json(outcome), **tokens}}


def said_since(parent: Parent) -> tuple[Item, ...]:
    """The output of a turn that the prompt of its checkpoint does not have: its last round's. What a
    compaction stands for is in that prompt."""
    rounds = parent.response.body["caching"].get("rounds")
    return parent.output_items[rounds[-1]["output_index"] :] if rounds else parent.output_items


def _as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "path": outcome.path,
        "reason": outcome.reason,
        "reused_tokens": outcome.reused_tokens,
        "tokenized_tokens": outcome.tokenized_tokens,
        "sampled_reused": outcome.sampled_reused,
    }
