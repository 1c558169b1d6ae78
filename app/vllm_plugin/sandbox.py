"""Jinja's sandbox, in which chat templates run, with the same answers for less.

At each `message.role` the sandbox first fails to find an attribute of that name, and at each `loop.index0` it
asks anew whether a template may have it: three quarters of what rendering Qwen3's template costs, 32 ms for
2,000 short messages. Here it is 8.

Seen in Jinja 3.1.6, jinja2/sandbox.py.
"""

from importlib.metadata import version
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

_TESTED_JINJA = "3.1."
_OF_DICTS = frozenset(dir(dict))
_MOST_REMEMBERED = 4096

stock_getattr = ImmutableSandboxedEnvironment.getattr
stock_is_safe_attribute = ImmutableSandboxedEnvironment.is_safe_attribute
_safe: dict[tuple[type, str], bool] = {}


def getattr_(self: Any, obj: Any, attribute: str) -> Any:
    """As `stock_getattr`. A dict that is not of a subclass has the attributes of its type and no others."""
    if type(obj) is dict and attribute not in _OF_DICTS:
        try:
            return obj[attribute]
        except LookupError:
            return self.undefined(obj=obj, name=attribute)
    return stock_getattr(self, obj, attribute)


def is_safe_attribute(self: Any, obj: Any, attr: str, value: Any) -> bool:
    """As `stock_is_safe_attribute`, which looks at the object's type and the name, and at no value."""
    key = (type(obj), attr)
    safe = _safe.get(key)
    if safe is None:
        if len(_safe) >= _MOST_REMEMBERED:
            _safe.clear()
        safe = _safe[key] = stock_is_safe_attribute(self, obj, attr, value)
    return safe


def install() -> None:
    """From now on, in all sandboxes of this process, those of templates that are compiled already too."""
    if version("jinja2").startswith(_TESTED_JINJA):
        ImmutableSandboxedEnvironment.getattr = getattr_  # type: ignore[method-assign]
        ImmutableSandboxedEnvironment.is_safe_attribute = is_safe_attribute  # type: ignore[method-assign]
