"""Tools in the chat API's shape. It knows functions only: a custom tool is a function of one string."""

import json
import re
from collections.abc import Iterable
from typing import Any

INPUT = "input"
"""The one argument of a custom tool's function."""


def chat_tools(tools: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "function", "function": _function(tool)} for tool in tools]


def chat_tool_choice(choice: Any) -> Any:
    """`tool_choice` in the chat API's shape. Which tools are allowed is said by which are sent."""
    if isinstance(choice, str):
        return choice
    if choice["type"] == "allowed_tools":
        return choice["mode"]
    return {"type": "function", "function": {"name": choice["name"]}}


def custom_names(tools: Iterable[dict[str, Any]]) -> frozenset[str]:
    return frozenset(tool["name"] for tool in tools if tool["type"] == "custom")


def custom_arguments(text: str) -> str:
    """A custom tool's input as its function's arguments."""
    return json.dumps({INPUT: text}, ensure_ascii=False)


def _function(tool: dict[str, Any]) -> dict[str, Any]:
    if tool["type"] == "function":
        return {k: v for k, v in tool.items() if k != "type" and v is not None}
    text: dict[str, Any] = {"type": "string"}
    if tool["format"]["type"] == "grammar":
        text["pattern"] = tool["format"]["definition"]
    parameters = {
        "type": "object",
        "properties": {INPUT: text},
        "required": [INPUT],
        "additionalProperties": False,
    }
    described = {"description": tool["description"]} if tool.get("description") else {}
    return {"name": tool["name"], **described, "parameters": parameters, "strict": True}


class CustomInput:
    """Reads a custom tool's input out of its function's arguments as they come.

    Arguments that are not `{"input": "…"}`, from a server that does not enforce them, are the input as they
    are.
    """

    _OPENING = re.compile(r'\s*\{\s*"' + INPUT + r'"\s*:\s*"')
    _OPENING_SO_FAR = re.compile(r'\s*(\{\s*("(i(n(p(u(t("\s*(:\s*)?)?)?)?)?)?)?)?)?')
    _WHOLE = re.compile(
        r'(?:[^"\\]|\\[^u]'  # itself, or a short escape
        r"|\\u[dD][89abAB]..\\u...."  # a pair of surrogates
        r"|\\u(?![dD][89abAB])...."  # another code point
        r"|\\u....(?=[^\\])|\\u....(?=\\[^u]))*",  # half a pair, to which no other half can come
        re.DOTALL,
    )
    """As much of a JSON string as can be read by itself."""

    def __init__(self) -> None:
        self._waiting = ""
        self._inside = False
        self._raw = False

    def add(self, arguments: str) -> str:
        """What of the input is new."""
        self._waiting += arguments
        if not self._inside and not self._raw:
            if opening := self._OPENING.match(self._waiting):
                self._inside, self._waiting = True, self._waiting[opening.end() :]
            elif not self._OPENING_SO_FAR.fullmatch(self._waiting):
                self._raw = True
        if self._raw:
            text, self._waiting = self._waiting, ""
            return text
        if not self._inside:
            return ""
        whole = self._WHOLE.match(self._waiting)
        assert whole is not None
        self._waiting = self._waiting[whole.end() :]
        return _unescaped(whole[0])


def _unescaped(text: str) -> str:
    """The text of a JSON string's inside; what is no such thing is left as it is."""
    try:
        read: str = json.loads(f'"{text}"', strict=False)
    except json.JSONDecodeError:
        return text
    # Half a pair of surrogates is no text that could be sent or stored.
    return read.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
