"""What the rounds of a turn cost and did with their prefixes: one, or more where tools are called here."""

from typing import Any

from app.conversation.engine import Outcome, Usage


class Rounds:
    """Grows by a round at a time."""

    def __init__(self) -> None:
        self._usages: list[Usage] = []
        self._outcomes: list[Outcome] = []

    def add(self, usage: Usage, outcome: Outcome) -> None:
        self._usages.append(usage)
        self._outcomes.append(outcome)

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
        """Of all rounds: each is a prompt and an answer of its own."""
        return Usage(
            input_tokens=sum(u.input_tokens for u in self._usages),
            cached_tokens=sum(u.cached_tokens for u in self._usages),
            cache_write_tokens=sum(u.cache_write_tokens for u in self._usages),
            output_tokens=sum(u.output_tokens for u in self._usages),
            reasoning_tokens=sum(u.reasoning_tokens for u in self._usages),
        )

    @property
    def seed(self) -> bytes | None:
        """Of all rounds: what each of them added is needed to have the last one's prompt."""
        return b"".join(outcome.seed or b"" for outcome in self._outcomes) or None

    @property
    def caching(self) -> dict[str, Any]:
        """What the turn did with its prefix. `rounds`, where there are several: each one's own."""
        each = [_as_json(outcome) for outcome in self._outcomes]
        if len(each) == 1:
            return each[0]
        counts = ("reused_tokens", "tokenized_tokens", "sampled_reused")
        return {**each[0], **{name: sum(one[name] for one in each) for name in counts}, "rounds": each}


def _as_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "path": outcome.path,
        "reason": outcome.reason,
        "reused_tokens": outcome.reused_tokens,
        "tokenized_tokens": outcome.tokenized_tokens,
        "sampled_reused": outcome.sampled_reused,
    }
