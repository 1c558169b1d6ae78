# ruff: noqa: RUF001 (DeepSeek's tokens are made of such characters)
"""Random conversations, as plain data that hypothesis can shrink: what a client might do, and worse."""

import json
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from app.prefix.wire import Policy
from tests.parity.families import FAMILIES, Family

Message = dict[str, Any]
Strategy = st.SearchStrategy[Any]

ACTS = ("continue",) * 6 + ("again", "edit", "whole", "forget")


@dataclass(frozen=True, slots=True)
class Step:
    """One turn.

    act: `continue` from a known turn by reference; the same turn `again`; its history with an `edit`; its
    `whole` history without a reference; or `forget` its reference, then use it.
    at: which turn, counted back from the newest.
    options: of the chat request; None are those of the turn before.
    ttl_s: 0 makes a reference that has expired at once.
    """

    act: str
    at: int
    added: tuple[Message, ...]
    options: dict[str, Any] | None
    ttl_s: int
    orderly: bool
    """Roles are made to alternate where the family wants it."""


@dataclass(frozen=True, slots=True)
class Conversation:
    budget_bytes: int
    steps: tuple[Step, ...] = field(default=())
    policy: Policy = "sampled"


_UNICODE = (
    "👩\u200d👩\u200d👧",
    "e\u0301",
    "\u0301",
    "\u0338",
    "한글",
    "你好",
    "ﬁ",
    "\u00a0",
    "\u2028",
    "\ufeff",
)
_LOOKALIKES = ("\ufffd", "Ã©", "â\x80\x99", "ï¿½", "<0xE2>", "Ġ", "Ċ", "\x00", "\u200b")
_SPLIT = ("<|im_", "start|>", "<", "|>", "<thi", "nk>", "</", "<start_of_", "turn>", "｜>", "<｜", "▁")
_WORDS = ("hello", " world", "The", " 12", "345", ".", ",", "'s", "x = 1", "tool_response", "user\n")
_SPACE = (" ", "  ", "\n", "\n\n", "\t", "\r\n", " \n")

_EVERY_SPECIAL = tuple(dict.fromkeys(token for family in FAMILIES.values() for token in family.special))


def texts(family: Family, longest: int = 10) -> Strategy:
    """Empty and blank, chat tokens whole and in pieces, runs, and any characters."""
    pieces = st.one_of(
        st.sampled_from(family.special),
        st.sampled_from(_WORDS + _SPACE),
        st.sampled_from(_UNICODE + _LOOKALIKES + _SPLIT),
        st.sampled_from(_EVERY_SPECIAL),
        st.builds(lambda piece, n: piece * n, st.sampled_from((*_SPACE, "▁", "a", "🙂")), st.integers(2, 40)),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    )
    return st.one_of(st.just(""), st.lists(pieces, max_size=longest).map("".join))


def contents(family: Family) -> Strategy:
    parts = st.lists(
        texts(family, 3).map(lambda text: {"type": "text", "text": text}), min_size=1, max_size=3
    )
    return st.one_of(texts(family), texts(family), texts(family), parts)


def tool_calls(family: Family) -> Strategy:
    values = st.one_of(st.integers(-9, 10**20), st.booleans(), st.none(), texts(family, 3))
    arguments = st.one_of(
        st.dictionaries(st.sampled_from("zyxab"), values, max_size=3).map(json.dumps),
        st.sampled_from(("", "{", "null", "[1]", '{"a": 1} ', '{"b":  {"z": 1, "a": [1.0, 1e3]}}')),
    )
    call = st.builds(
        lambda name, text: {"id": "c", "type": "function", "function": {"name": name, "arguments": text}},
        st.sampled_from(("f", "get_weather")),
        arguments,
    )
    return st.lists(call, min_size=1, max_size=3)


def messages(family: Family) -> Strategy:
    """One or several that belong together: calls come with their results, now and then without."""
    content = contents(family)
    plain = st.builds(lambda role, text: ({"role": role, "content": text},), _ROLES, content)
    thought = st.builds(
        lambda key, reasoning, text: ({"role": "assistant", key: reasoning, "content": text},),
        st.sampled_from(("reasoning", "reasoning_content")),
        texts(family, 4),
        texts(family),
    )
    rounds = st.builds(
        lambda calls, text, results: (
            {"role": "assistant", "content": text, "tool_calls": calls},
            *({"role": "tool", "tool_call_id": "c", "content": result} for result in results),
        ),
        tool_calls(family),
        st.one_of(st.none(), texts(family, 3)),
        st.lists(content, max_size=3),
    )
    return st.one_of(plain, plain, thought, rounds)


def exchanges(family: Family) -> Strategy:
    """An answer and the next question, in words as models say them."""
    said = st.lists(st.sampled_from((*_WORDS, "🙂", "한글", "<", "\n\n")), min_size=1, max_size=8).map(
        "".join
    )
    return st.builds(
        lambda answer, thought, question: (
            {"role": "assistant", "content": answer} | ({"reasoning": thought} if thought else {}),
            {"role": "user", "content": question},
        ),
        said,
        st.one_of(st.none(), st.none(), said),
        texts(family, 3),
    )


_ROLES = st.sampled_from(("user", "user", "user", "assistant", "assistant", "system", "developer", "tool"))

_TOOLS = (
    {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}},
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "<tool_call>\n",
            "parameters": {
                "properties": {"z": {"type": "string"}, "a": {"maximum": 2**64}},
                "type": "object",
            },
        },
    },
)


def options(family: Family) -> Strategy:
    """Options of the chat request that reach the template or the tokenization."""
    efforts = {"reasoning_effort": st.sampled_from(_EFFORTS)} if family.harmony else {}
    return st.fixed_dictionaries(
        {},
        optional={
            **efforts,
            "tools": st.lists(st.sampled_from(_TOOLS), min_size=1, max_size=2),
            "chat_template_kwargs": st.fixed_dictionaries(
                {}, optional={"enable_thinking": st.booleans(), "unknown": st.integers(0, 2)}
            ),
            "add_generation_prompt": st.booleans(),
            "continue_final_message": st.sampled_from((False, False, True)),
        },
    ).map(_consistent)


_EFFORTS = ("low", "medium", "high", "none", "minimal")


def _consistent(chosen: dict[str, Any]) -> dict[str, Any]:
    # Stock vLLM refuses both; the one that is asked for more rarely stays.
    return {**chosen, "add_generation_prompt": False} if chosen.get("continue_final_message") else chosen


def steps(family: Family) -> Strategy:
    return st.builds(
        lambda act, at, added, chosen, ttl_s, orderly: Step(act, at, added, chosen, ttl_s, orderly),
        st.sampled_from(ACTS),
        st.sampled_from((0, 0, 0, 0, 1, 1, 2, 3, 5, 8)),
        st.one_of(
            st.lists(messages(family), min_size=1, max_size=3).map(lambda groups: sum(groups, ())),
            exchanges(family),
        ),
        st.one_of(st.none(), st.none(), st.none(), options(family)),
        st.sampled_from((3600,) * 12 + (0,)),
        st.sampled_from((True,) * 9 + (False,)),
    )


def conversations(family: Family) -> Strategy:
    """Budgets go from one that holds everything down to one that holds hardly anything."""
    long = st.lists(steps(family), min_size=10, max_size=24)
    return st.builds(
        lambda budget, chosen, policy: Conversation(budget, tuple(chosen), policy),
        st.sampled_from((1 << 28, 1 << 28, 1 << 28, 100_000, 30_000, 8_000)),
        st.one_of(st.lists(steps(family), min_size=1, max_size=6), long, long),
        st.sampled_from(("sampled", "sampled", "canonical")),
    )
