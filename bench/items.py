"""A conversation's items as a client that keeps them would send them: Responses items and chat messages."""

import json
from collections.abc import Iterable
from typing import Any

Item = dict[str, Any]
Message = dict[str, Any]


def user(text: str) -> Item:
    return {"type": "message", "role": "user", "content": text}


def assistant(text: str) -> Item:
    # Without an id: agentic-api makes ids its primary keys, and refuses a history that has one twice.
    return {"type": "message", "role": "assistant", "content": text}


def tool_result(call_id: str, output: str) -> Item:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def function_call(items: Iterable[Item]) -> Item | None:
    """The first call among an answer's items."""
    return next((item for item in items if item["type"] == "function_call"), None)


def text_of(items: Iterable[Item]) -> str:
    """All that the model said in an answer, in one line: to compare answers by."""
    said = []
    for item in items:
        if item["type"] == "function_call":
            said.append(json.dumps([item["name"], item["arguments"]]))
        elif item["type"] in ("message", "reasoning"):
            said.append(_text(item))
    return "\n".join(said)


def messages(items: Iterable[Item]) -> list[Message]:
    """Chat messages: one assistant message for each step of the model, its reasoning with it."""
    made: list[Message] = []
    for item in items:
        kind = item["type"]
        if kind == "function_call_output":
            made.append({"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]})
        elif kind == "message" and item["role"] != "assistant":
            made.append({"role": item["role"], "content": item["content"]})
        else:
            step = _step(made, kind)
            if kind == "reasoning":
                step["reasoning"] = _text(item)
            elif kind == "message":
                step["content"] = _text(item)
            else:
                function = {"name": item["name"], "arguments": item["arguments"]}
                call = {"id": item["call_id"], "type": "function", "function": function}
                step.setdefault("tool_calls", []).append(call)
    return made


def _text(item: Item) -> str:
    content = item.get("content") or ""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def _step(made: list[Message], kind: str) -> Message:
    """The assistant message that an item of `kind` belongs to: the last one, unless it is complete."""
    last = made[-1] if made and made[-1]["role"] == "assistant" else None
    is_next = kind == "reasoning" or (kind == "message" and (last or {}).get("content"))
    if last is None or is_next:
        last = {"role": "assistant", "content": ""}
        made.append(last)
    return last


def from_chat(text: str, reasoning: str, calls: list[dict[str, str]]) -> list[Item]:
    """The items of an answer that came as chat deltas; calls have `id`, `name`, `arguments`."""
    made: list[Item] = []
    if reasoning:
        content = [{"type": "reasoning_text", "text": reasoning}]
        made.append({"type": "reasoning", "id": "rs_0", "summary": [], "content": content})
    if text:
        made.append(assistant(text))
    for call in calls:
        one = {"call_id": call["id"], "name": call["name"], "arguments": call["arguments"]}
        made.append({"type": "function_call", "id": f"fc_{call['id']}", "status": "completed", **one})
    return made
