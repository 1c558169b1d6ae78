"""An agent's loop: a question, tool calls with reasoning, results; then the next question, at which the
template (Qwen3's) drops the reasoning of the steps before."""

import random

from bench import items, texts
from bench.modes import Ids, Options, Point
from bench.rounds import Points, Rounds
from bench.scale import Scale
from bench.texts import ANSWER, CALL, TOOL

NAME = "tools"
QUESTIONS = 2
RESULT_TOKENS = 300
ANSWER_TOKENS = 96
TOOLS = (
    {
        "type": "function",
        "name": TOOL,
        "description": "Look one step up.",
        "strict": False,
        "parameters": {
            "type": "object",
            "properties": {"step": {"type": "integer"}},
            "required": ["step"],
            "additionalProperties": False,
        },
    },
)


def asks(scale: Scale) -> int:
    return QUESTIONS * (1 + scale.tool_rounds)


def run(rounds: Rounds, scale: Scale) -> None:
    options = Options(ANSWER_TOKENS, TOOLS)
    points = rounds.started(NAME)
    if points.pop(Ids.name, None):
        rounds.refused(
            NAME, Ids.name, "ids alone say nothing of tool calls: the client would have to parse them"
        )
    chance = random.Random(NAME)
    number = 0
    for question in range(QUESTIONS):
        new = [items.user(f"Question {question}: find out step by step. {CALL} 0]]")]
        points = rounds.turn(NAME, "question", question, points, new, options)
        for step in range(1, scale.tool_rounds + 1):
            is_last = step == scale.tool_rounds
            said = texts.words(chance, RESULT_TOKENS) + (ANSWER if is_last else f"{CALL} {step}]]")
            points = _answered(rounds, points, said, number, options)
            number += 1


def _answered(rounds: Rounds, points: Points, said: str, number: int, options: Options) -> Points:
    """A turn that gives each mode's own call its result."""
    calls = {name: items.function_call(_last_answer(point)) for name, point in points.items()}
    for name in [name for name, call in calls.items() if call is None]:
        rounds.refused(NAME, name, "its answer was no tool call, so the loop could not go on")
        del points[name]
    new = {name: [items.tool_result(call["call_id"], said)] for name, call in calls.items() if call}
    return rounds.turn(NAME, "step", number, points, new, options)


def _last_answer(point: Point) -> list[items.Item]:
    """The items after the last one that the client sent."""
    made = list(point.items)
    at = max(
        n
        for n, item in enumerate(made)
        if item["type"] == "function_call_output" or ("role" in item and item["role"] == "user")
    )
    return made[at + 1 :]
