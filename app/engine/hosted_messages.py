"""Items of MCP tools as chat messages: each call with its output, and calls that waited for an approval."""

from collections.abc import Sequence
from typing import Any

from app.conversation.approvals import CALL, REQUEST, RESPONSE, denied, responses, runs
from app.conversation.hosted_tools import plain_name
from app.conversation.output import arguments_of
from app.conversation.records import Item

HOSTED = frozenset({"mcp_list_tools", CALL, REQUEST, RESPONSE})
"""The kinds of items that are mapped here."""

_DENIED = "The user did not approve this call: it was not made."


class HostedMessages:
    """Adds items to the messages that came before.

    A call stands with its output, and so alone in its message: the items do not say which calls were made at
    once. One that was approved gets its output where the answer to its request is. A request without an
    answer is nothing, and so is one that was approved and never run, or whose run was deleted; and so is an
    answer whose request is not there.

    A call has its tool's own name, whatever the model calls that in this turn or called it then: what was
    said must not change with the tools that a turn happens to have.
    """

    def __init__(self, items: Sequence[Item], then: Sequence[Item], before: Sequence[Item]) -> None:
        """then, before: the items after and before `items`."""
        self._runs = runs((*items, *then))
        self._settled = denied((*items, *then)) | self._runs.keys()
        self._asked = {item["id"] for item in (*before, *items) if item["type"] == REQUEST}
        self._answered = responses((*before, *items)) & self._asked

    def add(
        self, messages: list[dict[str, Any]], assistant: dict[str, Any] | None, item: Item
    ) -> dict[str, Any] | None:
        """assistant: the message that what the model did next would go into; returns that of from now on."""
        kind = item["type"]
        if kind == REQUEST and item["id"] in self._settled:
            assistant = _or_new(messages, assistant)
            assistant.setdefault("tool_calls", []).append(self._called(item))
        elif kind == RESPONSE:
            if text := self._answer(item):
                messages.append(_output(item["approval_request_id"], text))
            return None
        elif kind == CALL and item.get("status") not in ("incomplete", "in_progress", "calling"):
            return self._call(messages, assistant, item)
        return assistant

    def _call(
        self, messages: list[dict[str, Any]], assistant: dict[str, Any] | None, item: Item
    ) -> dict[str, Any] | None:
        request = item.get("approval_request_id") or ""
        if request in self._answered:
            return assistant
        if request in self._asked:
            messages.append(_output(request, said(item)))
            return None
        assistant = _or_new(messages, assistant)
        # What the model called beside it and is not answered yet comes after it: an output follows its call.
        waiting = assistant.pop("tool_calls", None)
        assistant["tool_calls"] = [self._called(item)]
        messages.append(_output(item["id"], said(item)))
        if waiting is None:
            return None
        messages.append({"role": "assistant", "content": "", "tool_calls": waiting})
        return messages[-1]

    def _answer(self, response: Item) -> str | None:
        """What the model is told: the output of the call, once it was run, or that there is none."""
        if response["approval_request_id"] not in self._asked:
            return None
        if not response["approve"]:
            reason = response.get("reason")
            return f"{_DENIED} {reason}" if reason else _DENIED
        run = self._runs.get(response["approval_request_id"])
        return said(run) if run else None

    def _called(self, item: Item) -> dict[str, Any]:
        # What no template could print is nothing, as it is of functions.
        arguments = item["arguments"] if arguments_of(item["arguments"]) is not None else "{}"
        function = {"name": plain_name(item["name"]), "arguments": arguments}
        return {"id": item["id"], "type": "function", "function": function}


def said(call: Item) -> str:
    """What a call came to, for the model."""
    error = call.get("error")
    if not error:
        return call.get("output") or ""
    if error["type"] != "mcp_tool_execution_error":
        return f"The call failed: {error['message']}"
    # A client may send it back without.
    content = error.get("content") or ()
    parts = [content] if isinstance(content, str | dict) else content
    texts = [part["text"] if isinstance(part, dict) and "text" in part else str(part) for part in parts]
    return "\n".join(["The call failed:", *texts])


def _or_new(messages: list[dict[str, Any]], assistant: dict[str, Any] | None) -> dict[str, Any]:
    if assistant is None:
        assistant = {"role": "assistant", "content": ""}
        messages.append(assistant)
    return assistant


def _output(call_id: str, text: str) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "content": text}
