"""Probes: conversations that show what a chat template does to history, each named by what it shows.

A probe renders a conversation and the same one changed (messages added, the clock moved, other tools, …)
and compares the two texts. Nothing is read from the template itself.
"""

from collections.abc import Callable
from dataclasses import dataclass

from app.certify.certificate import Finding, Kind
from app.certify.talk import Message, answer, call, chat, loop, result, system, user
from app.certify.texts import TemplateRefused, Texts, excerpts, kept_count


@dataclass(frozen=True, slots=True)
class Evidence:
    """Two texts, and how much of the first was rewritten (see Finding); `detail` goes after the sentence."""

    before: str
    after: str
    rewritten: float | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Probe:
    """`look` gives evidence, or None where the template does no such thing. Raises TemplateRefused where it
    does not take the probe's conversation, which says nothing."""

    name: str
    kind: Kind
    sentence: str
    look: Callable[[Texts], Evidence | None]

    def finding(self, texts: Texts) -> Finding | None:
        try:
            evidence = self.look(texts)
        except TemplateRefused:
            return None
        if evidence is None:
            return None
        before, after = evidence.before, evidence.after
        if evidence.rewritten is not None:
            before, after = excerpts(before, after)
        sentence = self.sentence + (f" {evidence.detail}" if evidence.detail else "")
        return Finding(self.name, self.kind, sentence, before, after, evidence.rewritten)


def rewritten(before: str, after: str, detail: str = "") -> Evidence | None:
    """Evidence that `after` does not begin with `before`; None if it does."""
    if after.startswith(before):
        return None
    return Evidence(before, after, 1 - kept_count(before, after) / len(before), detail)


def first_taken(texts: Texts, *conversations: list[Message]) -> list[Message]:
    """The first of them that the template takes. Raises TemplateRefused if it takes none."""
    for conversation in conversations:
        if texts.takes(conversation):
            return conversation
    raise TemplateRefused("none of these conversations is taken")


def plain_history(texts: Texts) -> list[Message]:
    """A chat that ends with a question, with a system message where that is taken."""
    talk = [*chat(5), user(6)]
    return first_taken(texts, [system(), *talk], talk)


def tool_history(texts: Texts, *, thought: bool = False) -> list[Message]:
    """A chat whose last question has led to three calls and their results."""
    talk = [*chat(3), user(4), *loop(3, thought=thought)]
    return first_taken(texts, [system(), *talk], talk)


def histories(texts: Texts) -> list[list[Message]]:
    """Those of both that the template takes."""
    taken = []
    for history in (plain_history, tool_history):
        try:
            taken.append(history(texts))
        except TemplateRefused:
            continue
    return taken


ANSWER, QUESTION, CALL, RESULT = answer(7), user(7), call(7), result(7)
"""Messages to add to a history."""
