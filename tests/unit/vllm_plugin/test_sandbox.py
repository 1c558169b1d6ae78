"""The quicker sandbox answers as Jinja's own, about everything that a template can hold."""

import math
from collections import OrderedDict, defaultdict, deque
from collections.abc import Iterator
from typing import Any

import pytest
from jinja2 import Undefined
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from app.vllm_plugin import sandbox


class Quicker(ImmutableSandboxedEnvironment):
    getattr = sandbox.getattr_
    is_safe_attribute = sandbox.is_safe_attribute


class Message(dict[str, Any]):
    role = "of the class"

    def __missing__(self, key: str) -> str:
        return f"missing {key}"


def numbers() -> Iterator[int]:
    yield 1


OBJECTS: list[Any] = [
    {},
    {"role": "user", "content": None, "items": 1, "format": "{}", "__class__": 2, "_own": 3, "mro": 4},
    Message(role="of the dict"),
    OrderedDict(role="user"),
    defaultdict(list),
    Namespace(role="user", _own=1),
    [1],
    (1,),
    {1},
    deque([1]),
    "text",
    b"bytes",
    1,
    None,
    True,
    dict,
    Message,
    numbers(),
    numbers,
    Message.__missing__,
    Message().__missing__,
    math,
    numbers.__code__,
    Undefined(name="x"),
]
NAMES = sorted(
    {name for thing in OBJECTS for name in dir(type(thing))}
    | {"role", "content", "missing", "_own", "mro", "", "gi_frame", "gi_code", "__globals__", "co_code", "pi"}
)


def said(environment: ImmutableSandboxedEnvironment, thing: Any, name: str) -> tuple[Any, ...]:
    """What a template gets for `thing.name`, in a form that can be compared."""
    try:
        got = environment.getattr(thing, name)
    except Exception as exc:
        return type(exc), str(exc)
    if isinstance(got, Undefined):
        return type(got), got._undefined_message, got._undefined_name, got._undefined_exception
    return type(got), getattr(got, "__name__", None) or repr(got)


@pytest.mark.parametrize("thing", OBJECTS, ids=lambda thing: type(thing).__name__)
def test_every_attribute_is_what_it_was(thing: Any) -> None:
    stock, quicker = ImmutableSandboxedEnvironment(), Quicker()
    for name in NAMES:
        expected = said(stock, thing, name)
        # Twice: what is remembered answers the second time.
        assert said(quicker, thing, name) == said(quicker, thing, name) == expected, name


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.append(1) }}",
        "{{ messages[0].update({}) }}",
        "{{ messages[0].clear() }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.format.__globals__ }}",
        "{{ '{0.__class__}'.format(messages) }}",
        "{{ (messages | attr('__class__')).__subclasses__() }}",
    ],
)
def test_a_template_may_do_no_more_than_before(template: str) -> None:
    def rendered(environment: ImmutableSandboxedEnvironment) -> str:
        try:
            return environment.from_string(template).render(messages=[{"role": "user"}])
        except SecurityError as exc:
            return f"refused: {exc}"

    assert rendered(Quicker()) == rendered(Quicker()) == rendered(ImmutableSandboxedEnvironment())
    assert "class" not in rendered(Quicker()) or "refused" in rendered(Quicker())


def test_what_is_remembered_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_MOST_REMEMBERED", 8)
    monkeypatch.setattr(sandbox, "_safe", {})
    for n in range(50):
        Quicker().getattr(type("Thing", (), {"a": n})(), "a")
    assert len(sandbox._safe) <= 8


def test_it_reaches_templates_that_were_compiled_before(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = (sandbox.stock_getattr, sandbox.stock_is_safe_attribute)
    monkeypatch.setattr(ImmutableSandboxedEnvironment, "getattr", stock[0])
    monkeypatch.setattr(ImmutableSandboxedEnvironment, "is_safe_attribute", stock[1])
    monkeypatch.setattr(sandbox, "_safe", {})
    template = ImmutableSandboxedEnvironment().from_string(
        "{% for m in messages %}{{ loop.index0 }}{{ m.role }}{% endfor %}"
    )
    sandbox.install()
    assert template.render(messages=[{"role": "user"}]) == "0user"
    assert sandbox._safe


def test_another_jinja_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    stock = (sandbox.stock_getattr, sandbox.stock_is_safe_attribute)
    monkeypatch.setattr(ImmutableSandboxedEnvironment, "getattr", stock[0])
    monkeypatch.setattr(ImmutableSandboxedEnvironment, "is_safe_attribute", stock[1])
    monkeypatch.setattr(sandbox, "version", lambda _: "3.2.0")
    sandbox.install()
    environment = ImmutableSandboxedEnvironment
    assert (environment.getattr, environment.is_safe_attribute) == stock
