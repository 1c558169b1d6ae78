"""What a server says of its tools is a stranger's: it is looked through before it is used."""

import math
from typing import Any

from app.conversation.hosted import ToolServerError

MAX_BYTES = 64 * 1024
"""Of one tool, roughly: of the texts in its description and schema, and a little for every other value."""
_MAX_DEPTH = 64
_MOST_VALUES = 10_000
_VALUE_BYTES = 2


def weigh(name: str, said: Any) -> int:
    """Bytes of the JSON `said` of the tool `name`. Raises ToolServerError for what is too large or too deep,
    and for what could not be written as JSON again: numbers that are none or too large, halves of characters.
    """
    size = 0
    left: list[tuple[Any, int]] = [(said, 0)]
    found = 1
    while left:
        value, depth = left.pop()
        size += _VALUE_BYTES
        if isinstance(value, dict | list):
            found += len(value)
            if found > _MOST_VALUES or depth == _MAX_DEPTH:
                raise _wrong(name, "is too large or too deep")
            if isinstance(value, dict):
                left += ((key, depth + 1) for key in value)
                value = value.values()
            left += ((part, depth + 1) for part in value)
        elif isinstance(value, str):
            size += _length(name, value)
        elif not _is_writable(value):
            raise _wrong(name, "has a number that is none, or is too large")
        if size > MAX_BYTES:
            raise _wrong(name, "is too large")
    return size


def _length(name: str, text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise _wrong(name, "is no text") from None


def _is_writable(value: Any) -> bool:
    """Whether it is a number that JSON has, and that 64 bits hold; or none at all."""
    if isinstance(value, float):
        return math.isfinite(value)
    return not isinstance(value, int) or -(2**63) <= value < 2**64


def _wrong(name: str, what: str) -> ToolServerError:
    called = name[:64].encode("utf-8", "replace").decode()
    return ToolServerError(f"What it says of the tool '{called}' {what}.")
