"""What a next turn can reuse: typical conversations, played through the plugin."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from app.certify.certificate import Reuse
from app.certify.offline import Offline, Refused
from app.certify.talk import Message, answer, call, result, system, tool, user
from app.certify.texts import kept_count
from app.certify.thread import Turn, play

Options = dict[str, Any] | None


class Step(NamedTuple):
    """A turn: the messages that it adds, and its options."""

    added: list[Message]
    options: Options = None


_TOOLS: Options = {"tools": [tool("get_weather")]}
_OTHER_TOOLS: Options = {"tools": [tool("get_weather"), tool("get_news")]}


def plain_chat() -> list[Step]:
    """The sixth question of a chat."""
    return [Step([system(), user(1)]), *(Step([answer(n), user(n + 1)]) for n in range(1, 6))]


def _until_loop() -> list[Step]:
    return [Step(added, _TOOLS) for added, _ in plain_chat()[:3]]


def tool_loop() -> list[Step]:
    """The step after the fifth call of a loop, with reasoning before each call."""
    calls = [Step([call(n, thought=True), result(n)], _TOOLS) for n in range(1, 6)]
    return [*_until_loop(), *calls]


def after_tool_loop() -> list[Step]:
    """The next question after such a loop and its answer."""
    return [*tool_loop(), Step([answer(7, thought=True), user(8)], _TOOLS)]


def changed_tools() -> list[Step]:
    """The next question after such a loop, with one tool more than before."""
    return [*after_tool_loop(), Step([answer(8, thought=True), user(9)], _OTHER_TOOLS)]


SCENARIOS = {
    "plain chat": plain_chat,
    "tool loop": tool_loop,
    "next question after a tool loop with reasoning": after_tool_loop,
    "changed tools": changed_tools,
}


def reuses(worker: Offline) -> Iterator[Reuse]:
    """One per scenario; a template without system messages gets them without."""
    for name, steps in SCENARIOS.items():
        worker.empty_store()
        yield worker.runner.run(_reuse(worker, name, steps()))


async def _reuse(worker: Offline, name: str, steps: list[Step]) -> Reuse:
    before, turn = Turn(), Turn()
    if isinstance(await play(worker, turn, *steps[0]), Refused):
        steps[0] = steps[0]._replace(added=steps[0].added[1:])
    for step in steps:
        played = await play(worker, turn, *step)
        if isinstance(played, Refused):
            return Reuse(name, "refused", 0, 0, 0, played.message)
        before, turn = turn, played
    assert before.prompt and turn.prompt and turn.receipt
    standing = kept_count(before.prompt.ids, turn.prompt.ids)
    receipt = turn.receipt
    return Reuse(name, receipt.path, receipt.tokens, standing, receipt.reused_tokens)
