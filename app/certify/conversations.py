"""Random conversations from a seed: what a client might do, and what breaks careless tokenization."""

import json
import random
from collections.abc import Sequence
from typing import Any, NamedTuple

from app.certify.talk import Message, tool

_WORDS = ("hello", " world", "The", " 12", "345", ".", "'s", "x = 1", "user\n", "tool_response")
_BLANKS = (" ", "  ", "\n", "\n\n", "\t", "\r\n", " \n")
_UNICODE = ("👩\u200d👩\u200d👧", "e\u0301", "\u0338", "한글", "你好", "\u00a0", "\u2028", "\ufeff", "🙂")
_LOOKALIKES = (
    "\ufffd",
    "Ã©",
    "<0xE2>",
    "Ġ",
    "\x00",
    "\u200b",
    "▁",
    "<|",
    "|>",
    "</thi",
    "nk>",
    "<think>",
    "</think>",
)
_ROLES = ("user", "user", "user", "assistant", "assistant", "system", "developer", "tool")
_MALFORMED = ("", "{", "null", "[1]", '{"a": 1} ', '{"b":  {"z": 1, "a": [1.0, 1e3]}}')


class Step(NamedTuple):
    """One turn of a client.

    at: which turn it starts from, counted back from the newest.
    whole: the history is sent once more, instead of a reference. edit: and one message of it is changed.
    options: of the chat request; None are those of the turn before.
    orderly: roles are made to alternate, as some templates want it.
    """

    at: int
    added: list[Message]
    options: dict[str, Any] | None
    whole: bool
    edit: bool
    orderly: bool


class Conversations:
    """An endless supply; the same for the same seed.

    special: chat tokens of the tokenizer, for texts that hold them, whole and in pieces.
    orderly: share of the turns whose roles alternate.
    """

    def __init__(self, seed: int, special: Sequence[str], orderly: float) -> None:
        self._random = random.Random(seed)
        self._special = [*special, *(piece for token in special for piece in (token[:-1], token[1:]))]
        self._orderly = orderly

    def steps(self) -> list[Step]:
        return [self._step() for _ in range(self._random.randint(3, 16))]

    def _step(self) -> Step:
        pick = self._random
        act = pick.choices(("continue", "whole", "edit"), (8, 1, 1))[0]
        return Step(
            at=pick.choice((0, 0, 0, 0, 0, 1, 2, 5)),
            added=[message for _ in range(pick.randint(1, 3)) for message in self._messages()],
            options=self._options() if pick.random() < 0.2 else None,
            whole=act != "continue",
            edit=act == "edit",
            orderly=pick.random() < self._orderly,
        )

    def _messages(self) -> list[Message]:
        """One, or several that belong together."""
        kind = self._random.choices(("plain", "thought", "round"), (3, 1, 2))[0]
        if kind == "plain":
            return [{"role": self._random.choice(_ROLES), "content": self._content()}]
        if kind == "thought":
            return [{"role": "assistant", "reasoning": self._text(4), "content": self._text(6)}]
        calls = [self._call(n) for n in range(self._random.randint(1, 3))]
        said = self._random.choice((None, "", self._text(3)))
        # Now and then a result is missing, or there is one too many.
        results = [
            {"role": "tool", "tool_call_id": f"call0000{n}", "content": self._content()}
            for n in range(self._random.randint(0, 3))
        ]
        return [{"role": "assistant", "content": said, "tool_calls": calls}, *results]

    def _call(self, n: int) -> dict[str, Any]:
        values = {key: self._value() for key in self._random.sample("zyxab", self._random.randint(0, 3))}
        arguments = self._random.choice(
            (json.dumps(values), json.dumps(values), self._random.choice(_MALFORMED))
        )
        return {
            "id": f"call0000{n}",
            "type": "function",
            "function": {"name": "get_news", "arguments": arguments},
        }

    def _value(self) -> Any:
        return self._random.choice((self._text(3), self._random.randint(-9, 10**20), 1.5, True, None))

    def _content(self) -> str | list[dict[str, str]]:
        if self._random.random() < 0.2:
            return [{"type": "text", "text": self._text(3)} for _ in range(self._random.randint(1, 3))]
        return self._text(10)

    def _text(self, longest: int) -> str:
        return "".join(self._piece() for _ in range(self._random.randint(0, longest)))

    def _piece(self) -> str:
        pick = self._random
        kind = pick.choices(("word", "blank", "unicode", "special", "run"), (4, 2, 2, 2, 1))[0]
        if kind == "run":
            return pick.choice((*_BLANKS, "▁", "a", "🙂")) * pick.randint(2, 40)
        pieces = {
            "word": _WORDS,
            "blank": _BLANKS,
            "unicode": _UNICODE + _LOOKALIKES,
            "special": self._special,
        }
        return pick.choice(pieces[kind] or _WORDS)

    def _options(self) -> dict[str, Any]:
        pick = self._random
        chosen: dict[str, Any] = {}
        if pick.random() < 0.5:
            chosen["tools"] = [
                tool(name) for name in pick.sample(("get_news", "get_weather"), pick.randint(1, 2))
            ]
        if pick.random() < 0.5:
            chosen["chat_template_kwargs"] = {"enable_thinking": pick.random() < 0.5}
        if pick.random() < 0.2:
            chosen["add_generation_prompt"] = False
        return chosen


def alternating(before: Sequence[Message], added: Sequence[Message]) -> list[Message]:
    """`added` with roles that go on in turn after `before`, user first; only a first system message stays."""
    turns = sum(message["role"] != "system" for message in before)
    changed: list[Message] = []
    for message in added:
        if message["role"] == "system" and not before and not changed:
            changed.append(message)
            continue
        changed.append({"role": ("user", "assistant")[turns % 2], "content": message["content"] or ""})
        turns += 1
    return changed
