"""Tools in the chat API's shape, and a custom tool's input read out of its function's arguments."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.conversation.options import Options
from app.engine.tools import CustomInput, chat_tool_choice, chat_tools

FUNCTION = {"type": "function", "name": "f", "description": None, "parameters": {}, "strict": True}
SHELL = {"type": "custom", "name": "sh", "description": "Runs it.", "format": {"type": "text"}}


def test_functions_and_choices_in_the_chat_shape() -> None:
    assert chat_tools([FUNCTION]) == [
        {"type": "function", "function": {"name": "f", "parameters": {}, "strict": True}}
    ]
    chosen = {"type": "function", "function": {"name": "f"}}
    assert chat_tool_choice("auto") == "auto"
    assert chat_tool_choice({"type": "function", "name": "f"}) == chosen
    assert chat_tool_choice({"type": "custom", "name": "f"}) == chosen


def test_a_custom_tool_is_a_function_of_one_string() -> None:
    grammar = {"type": "grammar", "syntax": "regex", "definition": "[ab]+"}
    free, bound = (
        chat_tools([{**SHELL, "format": kind}])[0]["function"] for kind in (SHELL["format"], grammar)
    )
    assert (free["name"], free["description"], free["strict"]) == ("sh", "Runs it.", True)
    assert free["parameters"]["properties"] == {"input": {"type": "string"}}
    assert bound["parameters"]["properties"] == {"input": {"type": "string", "pattern": "[ab]+"}}


def test_only_allowed_tools_are_offered() -> None:
    def offered(choice: Any) -> list[str]:
        return [t["name"] for t in Options(tools=(FUNCTION, SHELL), tool_choice=choice).offered_tools]

    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "custom", "name": "sh"}]}
    assert (offered("auto"), offered({"type": "function", "name": "f"})) == (["f", "sh"], ["f", "sh"])
    assert offered(allowed) == ["sh"]
    assert chat_tool_choice(allowed) == "required"


@given(st.text(), st.booleans(), st.data())
def test_an_input_is_the_same_in_whatever_parts_it_comes(text: str, ascii: bool, data: st.DataObject) -> None:
    arguments = json.dumps({"input": text}, ensure_ascii=ascii)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(arguments)), max_size=8)))
    reader = CustomInput()
    parts = [reader.add(arguments[a:b]) for a, b in zip([0, *cuts], [*cuts, len(arguments)], strict=True)]
    assert "".join(parts) == text


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"input": "\\ud83d!"}', "\ufffd!"),  # half a pair
        ('{"input": "\\ud83d\\n"}', "\ufffd\n"),
        ('{"input": "\\ude00"}', "\ufffd"),
        ('{"input": "cut o', "cut o"),
        ('{"input": "cut \\u00e', "cut "),
        ("ls -l", "ls -l"),
        ('{"command": "ls"}', '{"command": "ls"}'),
        ("", ""),
    ],
)
def test_what_a_model_may_write_all_the_same(arguments: str, expected: str) -> None:
    whole, letters = CustomInput(), CustomInput()
    assert whole.add(arguments) == expected
    assert "".join(map(letters.add, arguments)) == expected
    expected.encode()
