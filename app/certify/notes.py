"""Probes for what is no rewrite by itself: what another change does to old text, what of a message is not in
the prompt as it was said, and which conversations a template does not take."""

import re

from app.certify.probes import Evidence, Probe, first_taken, plain_history, rewritten
from app.certify.talk import Message, answer, call, chat, loop, marker, result, system, tool, user
from app.certify.texts import Texts, kept_count

_AROUND = 40
_BLANKS = ("\n  ", "  \n")
_ARGUMENTS = '{"unit":"celsius",  "city": "city-1"}'


def default_system(texts: Texts) -> Evidence | None:
    without, given = texts.of([user(1)]), texts.of([system(), user(1)])
    head, head_given = (text[: text.find(marker(user(1)))] for text in (without, given))
    if all(word in head_given for word in re.findall(r"[^\W\d_]{2,}", head)):
        return None
    talk = [*chat(5), user(6)]
    return rewritten(texts.of(talk), texts.of([system(), *talk]))


def tools_before_history(texts: Texts) -> Evidence | None:
    history = plain_history(texts)
    before = texts.of(history, tools=[tool("get_weather")])
    after = texts.of(history, tools=[tool("get_weather"), tool("get_news")])
    if kept_count(before, after) > before.find(marker(history[-1])):
        return None
    return rewritten(before, after)


def thinking_switch(texts: Texts) -> Evidence | None:
    thinking = [*plain_history(texts), answer(7, thought=True), user(8)]
    history = first_taken(texts, [*thinking, *loop(2, thought=True)], thinking)
    before, after = (texts.under({"enable_thinking": wanted}).of(history) for wanted in (True, False))
    return rewritten(before, after)


def content_trimmed(texts: Texts) -> Evidence | None:
    said = _BLANKS[0] + "padded words" + _BLANKS[1]
    trimmed = []
    example = ""
    for role in ("user", "assistant"):
        history = [user(1), answer(1), user(2)]
        history[0 if role == "user" else 1]["content"] = said
        text = texts.of(history)
        if "padded words" in text and said not in text:
            trimmed.append(role)
            example = example or _around(text, "padded words")
    return Evidence(said, example, detail=f"Of: {', '.join(trimmed)}.") if trimmed else None


def tool_calls_reserialised(texts: Texts) -> Evidence | None:
    calling = call(1)
    calling["tool_calls"][0]["function"]["arguments"] = _ARGUMENTS
    text = texts.of([user(1), calling, result(1), answer(1), user(2)])
    if marker(calling) not in text or _ARGUMENTS in text:
        return None
    return Evidence(_ARGUMENTS, _around(text, marker(calling)))


def tool_calls_left_out(texts: Texts) -> Evidence | None:
    text = texts.of([user(1), *loop(1), answer(1), user(2)])
    if marker(call(1)) in text:
        return None
    return Evidence(_ARGUMENTS, _around(text, marker(result(1))))


def tools_left_out(texts: Texts) -> Evidence | None:
    with_tools = texts.of([user(1)], ask=True, tools=[tool("get_weather")])
    if "get_weather" in with_tools:
        return None
    return Evidence("get_weather", _around(with_tools, marker(user(1))))


def reasoning_left_out(texts: Texts) -> Evidence | None:
    thinking = answer(1, thought=True)
    step = first_taken(texts, [user(1), *loop(1, thought=True)], [user(1), thinking])
    text = texts.of(step)
    if "thought-1" in text or "thought-1" in texts.of([user(1), thinking]):
        return None
    return Evidence(thinking["reasoning"][: 2 * _AROUND] + "…", _around(text, marker(step[-1])))


def state_carried(texts: Texts) -> Evidence | None:
    rounds = [user(1), *loop(1), answer(1), user(2), *loop(1, first=2), answer(2), user(3)]
    text = texts.of(first_taken(texts, rounds, [*chat(2), user(3)]))
    first, second = (_round(text, n) for n in (1, 2))
    return None if first == second else Evidence(*_apart(first, second))


def _round(text: str, n: int) -> str:
    """From the `n`th question to its answer, in words that the other round has too."""
    shown = text[text.find(marker(user(n))) : text.find(marker(answer(n)))]
    return shown.replace(f"-{n}", "-#").replace(f"0000{n}", "0000#")


def _apart(first: str, second: str) -> tuple[str, str]:
    at = next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), 0)
    start, end = max(0, at - _AROUND), at + 2 * _AROUND
    return f"…{first[start:end]}…", f"…{second[start:end]}…"


def _around(text: str, mark: str) -> str:
    at = text.find(mark)
    return f"…{text[max(0, at - _AROUND) : at + len(mark) + _AROUND]}…"


def alternation_refused(texts: Texts) -> Evidence | None:
    return _refused(texts, [user(1), user(2)])


def system_refused(texts: Texts) -> Evidence | None:
    return _refused(texts, [system(), user(1)])


def late_system_refused(texts: Texts) -> Evidence | None:
    if system_refused(texts):
        return None
    return _refused(texts, [system(), *chat(1), system(2), user(2)])


def tool_messages_refused(texts: Texts) -> Evidence | None:
    return _refused(texts, [user(1), *loop(1), answer(1), user(2)])


def _refused(texts: Texts, conversation: list[Message]) -> Evidence | None:
    said = texts.refusal(conversation)
    return Evidence("", "", detail=f"It says: {said}") if said is not None else None


NOTES = (
    Probe(
        "default_system",
        "change",
        "Where the client sends no system message, a default one stands; another takes its place.",
        default_system,
    ),
    Probe(
        "tools_before_history",
        "change",
        "Tools are written before history: other tools change all that follows.",
        tools_before_history,
    ),
    Probe(
        "thinking_switch",
        "change",
        "Switching `enable_thinking` between turns changes old text.",
        thinking_switch,
    ),
    Probe("content_trimmed", "note", "Blanks around a message are cut off.", content_trimmed),
    Probe(
        "tool_calls_reserialised",
        "note",
        "The arguments of a tool call are written anew, not as the model wrote them.",
        tool_calls_reserialised,
    ),
    Probe("tool_calls_left_out", "note", "Tool calls of history are not in the prompt.", tool_calls_left_out),
    Probe("tools_left_out", "note", "Tools are not in the prompt.", tools_left_out),
    Probe("reasoning_left_out", "note", "Reasoning is not in the prompt, not even that of the last step.",
          reasoning_left_out),
    Probe(
        "state_carried",
        "note",
        "The first round of tool calls changes how later ones are written.",
        state_carried,
    ),
    Probe("alternation_refused", "refusal", "Two user messages in a row are refused.", alternation_refused),
    Probe("system_refused", "refusal", "System messages are refused.", system_refused),
    Probe("late_system_refused", "refusal", "A late system message is refused.", late_system_refused),
    Probe("tool_messages_refused", "refusal", "Tool calls and results are refused.", tool_messages_refused),
)  # fmt: skip
