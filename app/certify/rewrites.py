"""Probes for rewrites: old text that changes although messages were only added, or time only passed."""

from dataclasses import replace
from datetime import datetime

from app.certify.clock import clock
from app.certify.probes import (
    ANSWER,
    CALL,
    QUESTION,
    RESULT,
    Evidence,
    Probe,
    first_taken,
    histories,
    plain_history,
    rewritten,
    tool_history,
)
from app.certify.talk import Message, answer, call, chat, loop, marker, result, system, user
from app.certify.texts import TemplateRefused, Texts, kept_count

PRESENT = datetime(2026, 3, 4, 5, 6, 7)
_LATER = datetime(2027, 10, 11, 22, 33, 44)

_NEIGHBOURS = {
    "user": (user(6), (ANSWER, CALL, QUESTION)),
    "tool": (result(6), (ANSWER, CALL, RESULT, QUESTION)),
    "assistant": (answer(6), (QUESTION, ANSWER)),
    "call": (call(6), (result(6),)),
}
"""Which message may be the last one, and which may follow it. What a turn's prompt ends with comes first."""
_LEADING: dict[str, list[Message]] = {
    "user": [],
    "tool": [user(6), call(6)],
    "assistant": [user(6)],
    "call": [user(6)],
}
"""What comes before it, after whole exchanges."""


def reasoning_dropped(texts: Texts) -> Evidence | None:
    thinking = answer(7, thought=True)
    after_loop = (tool_history(texts, thought=True), [thinking, user(8)]) if _takes_tools(texts) else None
    # Without tools: an answer is in no prompt before the one that the next question makes.
    after_answer = ([*plain_history(texts), thinking], [user(8)])
    for history, added in filter(None, (after_loop, after_answer)):
        before, after = texts.of(history), texts.of([*history, *added])
        thoughts = [f"thought-{n} " for n in (1, 2, 3, 7)]
        if any(thought in before and thought not in after for thought in thoughts):
            return rewritten(before, after)
    return None


def _takes_tools(texts: Texts) -> bool:
    return texts.takes([user(1), *loop(1)])


def system_merged(texts: Texts) -> Evidence | None:
    return _moved(texts, system(2))


def developer_merged(texts: Texts) -> Evidence | None:
    return None if system_merged(texts) else _moved(texts, system(2, role="developer"))


def _moved(texts: Texts, late: Message) -> Evidence | None:
    history = plain_history(texts)
    before, after = texts.of(history), texts.of([*history, ANSWER, late, QUESTION])
    moved = 0 <= after.find(marker(late)) < after.find(marker(history[-1]))
    return rewritten(before, after) if moved else None


def look_ahead(texts: Texts) -> Evidence | None:
    found: Evidence | None = None
    pairs = []
    for last, (message, followers) in _NEIGHBOURS.items():
        for follower in followers:
            history = [*chat(5), *_LEADING[last], message]
            try:
                history = first_taken(texts, [system(), *history], history)
                before, after = texts.of(history), texts.of([*history, follower])
            except TemplateRefused:
                continue
            if not after.startswith(before) and _stands_up_to_last(history, before, after):
                pairs.append(f"{last} before {_name(follower)}")
                found = found or rewritten(before, after)
    return replace(found, detail=f"Seen: {', '.join(pairs)}.") if found else None


def _name(message: Message) -> str:
    return "call" if message.get("tool_calls") else str(message["role"])


def _stands_up_to_last(history: list[Message], before: str, after: str) -> bool:
    """Whether all that is rewritten of `before` belongs to the last message of `history`."""
    return kept_count(before, after) >= max(before.rfind(marker(message)) for message in history[:-1])


def history_rewritten(texts: Texts) -> Evidence | None:
    for history in histories(texts):
        for end in range(2, len(history)):
            try:
                before, after = texts.of(history[:end]), texts.of(history)
            except TemplateRefused:
                continue
            if not _stands_up_to_last(history[:end], before, after):
                return rewritten(before, after)
    return None


def generation_prompt_changed(texts: Texts) -> Evidence | None:
    history = plain_history(texts)
    plain, asked = texts.of(history), texts.of(history, ask=True)
    after = texts.of([*history, ANSWER, QUESTION])
    return rewritten(asked, after) if after.startswith(plain) else None


def nondeterministic(texts: Texts) -> Evidence | None:
    first = texts.of([user(1)])
    for _ in range(3):
        again = texts.of([user(1)])
        if again != first:
            return rewritten(first, again)
    return None


def date(texts: Texts) -> Evidence | None:
    history = plain_history(texts)
    now = texts.of(history)
    with clock(_LATER):
        return rewritten(now, texts.of(history))


RANDOM = Probe(
    "nondeterministic",
    "rewrite",
    "The same conversation is rendered differently each time; nothing else can be told apart.",
    nondeterministic,
)
REWRITES = (
    Probe(
        "reasoning_dropped",
        "rewrite",
        "Reasoning of earlier steps is dropped once the conversation goes on.",
        reasoning_dropped,
    ),
    Probe(
        "system_merged",
        "rewrite",
        "A system message that comes later is moved to the front, before all of history.",
        system_merged,
    ),
    Probe(
        "developer_merged",
        "rewrite",
        "A developer message that comes later is moved to the front: vLLM does so for templates that do not "
        "know the role.",
        developer_merged,
    ),
    Probe(
        "look_ahead",
        "rewrite",
        "The last message is written in another way once a message follows it.",
        look_ahead,
    ),
    Probe(
        "generation_prompt_changed",
        "rewrite",
        "What asks the model for its answer is not what stands before that answer later.",
        generation_prompt_changed,
    ),
    Probe("date", "rewrite", "The prompt holds the date or the time, which changes by itself.", date),
    Probe(
        "history_rewritten",
        "rewrite",
        "Old text changes when messages are added, for a reason that no other probe names.",
        history_rewritten,
    ),
)
