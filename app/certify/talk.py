"""Messages of a typical conversation, each with a marker by which it is found again in a rendered prompt.

Their lengths are those of ordinary chat and tool use, so that shares of a prompt mean something.
"""

from typing import Any

Message = dict[str, Any]

_SENTENCES = (
    "The river runs past the old mill and on to the sea, where the boats wait for the morning.",
    "Nobody had counted the steps before, so the figure in the report came as a surprise to all.",
    "It helps to write down what was tried first, then what was seen, and only then what it means.",
    "A short list is better than a long one, as long as the right three things stand on it.",
)


def _text(sentences: int) -> str:
    return " ".join((_SENTENCES * sentences)[:sentences])


def system(n: int = 1, role: str = "system") -> Message:
    return {"role": role, "content": f"rule-{n} {_text(6)}"}


def user(n: int) -> Message:
    return {"role": "user", "content": f"question-{n} {_text(2)}"}


def answer(n: int, *, thought: bool = False) -> Message:
    message = {"role": "assistant", "content": f"answer-{n} {_text(6)}"}
    return {**message, "reasoning": f"thought-{n} {_text(4)}"} if thought else message


def call(n: int, *, thought: bool = False) -> Message:
    # Mistral's templates want ids of nine letters and digits.
    function = {"name": "get_weather", "arguments": f'{{"city": "city-{n}", "unit": "celsius"}}'}
    calls = [{"id": f"call0000{n}", "type": "function", "function": function}]
    message = {"role": "assistant", "content": "", "tool_calls": calls}
    return {**message, "reasoning": f"thought-{n} {_text(4)}"} if thought else message


def result(n: int) -> Message:
    return {"role": "tool", "tool_call_id": f"call0000{n}", "content": f"result-{n} {_text(5)}"}


def tool(name: str) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": {"city": {"type": "string", "description": "Where"}, "unit": {"type": "string"}},
        "required": ["city"],
    }
    function = {"name": name, "description": f"What {name} is for. {_text(1)}", "parameters": parameters}
    return {"type": "function", "function": function}


def chat(exchanges: int) -> list[Message]:
    """So many questions with their answers."""
    return [message for n in range(1, exchanges + 1) for message in (user(n), answer(n))]


def loop(calls: int, *, first: int = 1, thought: bool = False) -> list[Message]:
    """So many calls, each with its result."""
    return [message for n in range(first, first + calls) for message in (call(n, thought=thought), result(n))]


def marker(message: Message) -> str:
    """What a prompt that shows this message holds, and which no other message has."""
    if message.get("tool_calls"):
        return "city-" + str(message["tool_calls"][0]["id"]).removeprefix("call0000")
    return str(message["content"]).split(" ", 1)[0]
