"""Responses items to chat messages.

The mapping is made per turn and per side (input, output), so that the messages of a history are the
concatenation of the messages of its turns: that is what lets a turn send its margin alone and still mean
the same conversation.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

from app.conversation.inputs import CALLS, answered
from app.conversation.output import arguments_of
from app.conversation.records import Item, Segment
from app.engine.hosted_messages import HOSTED, HostedMessages
from app.engine.tools import custom_arguments

Message = dict[str, Any]


def whole(instructions: str | None, history: Sequence[Segment], new_input: Sequence[Item]) -> list[Message]:
    """The messages of a whole conversation; `instructions` are its first, as a system message."""
    messages: list[Message] = [{"role": "system", "content": instructions}] if instructions else []
    before: Sequence[Item] = ()
    for segment, following in pairwise((*history, Segment(tuple(new_input), ()))):
        given, said = segment.input_items, segment.output_items
        # What a turn begins with is in its first prompt: a call that its input approves, too.
        then = (*following.input_items, *following.output_items)
        messages += _messages(given, said, before) + _messages(said, then, (*before, *given))
        before = said
    return messages + _messages(new_input, before=before)


def margin(parent_output: Sequence[Item], new_input: Sequence[Item]) -> list[Message]:
    """The messages that a turn adds to its parent's prompt."""
    return _messages(parent_output, new_input) + _messages(new_input, before=parent_output)


def have_images(messages: Iterable[Message]) -> bool:
    parts = (m["content"] for m in messages if isinstance(m["content"], list))
    return any(part["type"] == "image_url" for content in parts for part in content)


def _messages(items: Sequence[Item], then: Sequence[Item] = (), before: Sequence[Item] = ()) -> list[Message]:
    """then, before: the items after these and before them. A call that was cut off is one only where it has
    an output."""
    outputs = answered((*items, *then))
    hosted = HostedMessages(items, then, before)
    messages: list[Message] = []
    assistant: Message | None = None
    for item in items:
        kind = item["type"]
        if kind in HOSTED:
            assistant = hosted.add(messages, assistant, item)
        elif kind in CALLS.values():
            messages.append(
                {"role": "tool", "tool_call_id": item["call_id"], "content": _content(item["output"])}
            )
            assistant = None
        elif kind == "message" and item["role"] != "assistant":
            messages.append({"role": item["role"], "content": _content(item["content"])})
            assistant = None
        elif kind not in CALLS or item.get("status") != "incomplete" or item["call_id"] in outputs:
            # One assistant message per step of the model: reasoning, then text, then calls.
            if assistant is None or _follows(assistant, kind):
                assistant = {"role": "assistant", "content": ""}
                messages.append(assistant)
            _extend(assistant, kind, item)
    return messages


def _follows(assistant: Message, kind: str) -> bool:
    """Whether an item of `kind` belongs to a later step than what `assistant` already holds."""
    if kind in CALLS:
        return False
    if kind == "message":
        return bool(assistant["content"] or "tool_calls" in assistant)
    return len(assistant) > 2 or bool(assistant["content"])


def _extend(assistant: Message, kind: str, item: Item) -> None:
    if kind == "reasoning":
        parts = item.get("content") or item.get("summary") or []
        assistant["reasoning"] = "\n".join(part["text"] for part in parts)
    elif kind == "message":
        content = item["content"]
        texts = (part.get("text", part.get("refusal", "")) for part in content) if content else ()
        assistant["content"] = content if isinstance(content, str) else "".join(texts)
    else:
        # What no template could print is nothing, as vLLM has it: else the conversation could not go on.
        function = kind == "function_call"
        arguments = item["arguments"] if function else custom_arguments(item["input"])
        if function and arguments_of(arguments) is None:
            arguments = "{}"
        call = {"name": item["name"], "arguments": arguments}
        assistant.setdefault("tool_calls", []).append(
            {"id": item["call_id"], "type": "function", "function": call}
        )


def _content(content: Any) -> Any:
    """A string where one will do: templates that know only strings get one."""
    if isinstance(content, str):
        return content
    if len(content) == 1 and content[0]["type"] == "input_text":
        return content[0]["text"]
    return [_part(part) for part in content]


def _part(part: dict[str, Any]) -> dict[str, Any]:
    if part["type"] == "input_text":
        return {"type": "text", "text": part["text"]}
    return {"type": "image_url", "image_url": {"url": part["image_url"], "detail": part["detail"]}}
