"""What the create route accepts, and how it refuses the rest: by field, with OpenAI's codes."""

import json
from typing import Any

import pytest

from app.api.requests import parse_create
from app.errors import InvalidRequest


def parse(**body: Any) -> Any:
    return parse_create(json.dumps(body).encode(), 3600)


def test_a_string_is_one_user_message() -> None:
    turn, stream = parse(input="hi")
    (item,) = turn.input
    assert item.pop("id").startswith("msg_")
    content = [{"type": "input_text", "text": "hi"}]
    assert item == {"type": "message", "role": "user", "content": content}
    assert not stream


def test_the_output_of_an_earlier_answer_can_be_sent_back_unchanged() -> None:
    output = [
        {
            "type": "reasoning",
            "id": "rs_1",
            "status": "completed",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "hm"}],
        },
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "hi", "annotations": [], "logprobs": []}],
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "status": "completed",
            "call_id": "c",
            "name": "f",
            "arguments": "{}",
        },
    ]
    turn, _ = parse(input=[*output, {"type": "function_call_output", "call_id": "c", "output": "ok"}])
    assert list(turn.input[:3]) == output
    assert turn.input[3]["output"] == [{"type": "input_text", "text": "ok"}]


def test_defaults_and_caching() -> None:
    turn, _ = parse(input="hi")
    assert (turn.store, turn.caching.enabled, turn.caching.ttl_s) == (True, True, 3600)
    turn, stream = parse(input="hi", store=False, stream=True, caching={"type": "disabled", "ttl": 5})
    assert (turn.store, turn.caching.enabled, turn.caching.ttl_s, stream) == (False, False, 5, True)


TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}

LARK = {"type": "grammar", "syntax": "lark", "definition": "start: WORD"}
ALLOWED = {"type": "allowed_tools", "mode": "auto"}

REFUSED: list[tuple[dict[str, Any], str | None, str]] = [
    ({}, "input", "missing_required_parameter"),
    ({"input": 3}, "input", "invalid_type"),
    ({"input": []}, "input", "invalid_value"),
    ({"input": "x", "nonsense": 1}, "nonsense", "unknown_parameter"),
    ({"input": "x", "conversation": 1}, "conversation", "invalid_type"),
    ({"input": "x", "conversation": {"id": "c", "x": 1}}, "conversation.x", "unknown_parameter"),
    (
        {"input": "x", "conversation": "conv_1", "previous_response_id": "resp_1"},
        "conversation",
        "invalid_value",
    ),
    ({}, "input", "missing_required_parameter"),
    ({"input": []}, "input", "invalid_value"),
    ({"input": "x", "background": True, "store": False}, "store", "invalid_value"),
    (
        {"input": "x", "background_options": {"completion_window": "2h"}},
        "background_options.completion_window",
        "unsupported_parameter",
    ),
    (
        {"input": "x", "background_options": {"continuation_id": "a"}},
        "background_options.continuation_id",
        "unsupported_parameter",
    ),
    ({"input": "x", "truncation": "middle"}, "truncation", "invalid_value"),
    ({"input": "x", "include": ["everything"]}, "include[0]", "invalid_value"),
    ({"input": "x", "prompt": {"id": "pmpt_1"}}, "prompt", "unsupported_parameter"),
    ({"input": "x", "moderation": {"model": "m"}}, "moderation", "unsupported_parameter"),
    ({"input": "x", "stream_options": {}}, "stream_options", "invalid_value"),
    (
        {"input": "x", "stream": True, "stream_options": {"include_obfuscation": True}},
        "stream_options.include_obfuscation",
        "unsupported_parameter",
    ),
    ({"input": "x", "top_logprobs": 21}, "top_logprobs", "invalid_value"),
    ({"input": "x", "service_tier": "gold"}, "service_tier", "invalid_value"),
    ({"input": "x", "safety_identifier": "u" * 129}, "safety_identifier", "invalid_value"),
    ({"input": "x", "reasoning": {"effort": "some"}}, "reasoning.effort", "invalid_value"),
    ({"input": "x", "reasoning": {"context": "all_turns"}}, "reasoning.context", "unsupported_parameter"),
    ({"input": "x", "text": {"format": {"type": "xml"}}}, "text.format", "invalid_value"),
    (
        {"input": "x", "text": {"format": {"type": "json_schema", "name": "n"}}},
        "text.format.schema",
        "missing_required_parameter",
    ),
    ({"input": "x", "text": {"verbosity": "loud"}}, "text.verbosity", "invalid_value"),
    ({"input": "x", "stop": 3}, "stop", "invalid_type"),
    ({"input": "x", "stop": ["a"] * 5}, "stop", "invalid_value"),
    ({"input": "x", "structured_outputs": {"zz": 1}}, "structured_outputs.zz", "unknown_parameter"),
    (
        {"input": "x", "structured_outputs": {"disable_any_whitespace": 5}},
        "structured_outputs.disable_any_whitespace",
        "invalid_type",
    ),
    (
        {"input": "x", "structured_outputs": {"json": {"a": 1 << 64}}},
        "structured_outputs.json",
        "invalid_value",
    ),
    ({"input": "x", "stop": [3]}, "stop", "invalid_type"),
    ({"input": "x", "seed": 1 << 63}, "seed", "invalid_value"),
    ({"input": "x", "min_p": 1.5}, "min_p", "invalid_value"),
    ({"input": "x", "cache_salt": "mine"}, "cache_salt", "unknown_parameter"),
    ({"input": "x", "n": 2}, "n", "unknown_parameter"),
    ({"input": "x", "prompt_cache_options": {"ttl": "1h"}}, "prompt_cache_options.ttl", "invalid_value"),
    ({"input": "x", "temperature": "1"}, "temperature", "invalid_type"),
    ({"input": "x", "temperature": 3}, "temperature", "invalid_value"),
    ({"input": "x", "max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
    ({"input": "x", "stream": "yes"}, "stream", "invalid_type"),
    ({"input": "x", "metadata": {"a": 1}}, "metadata.a", "invalid_type"),
    ({"input": "x", "metadata": {str(i): "" for i in range(17)}}, "metadata", "invalid_value"),
    ({"input": "x", "caching": {"type": "on"}}, "caching.type", "invalid_value"),
    ({"input": "x", "caching": {"ttl": 0}}, "caching.ttl", "invalid_value"),
    ({"input": "x", "caching": {"size": 0}}, "caching.size", "unknown_parameter"),
    ({"input": "x", "tools": [{"type": "web_search"}]}, "tools[0]", "unsupported_parameter"),
    ({"input": "x", "tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
    ({"input": "x", "tools": [{**TOOL, "name": f"f{n}"} for n in range(1025)]}, "tools", "invalid_value"),
    ({"input": "x", "tools": [{"type": "abacus"}]}, "tools[0]", "invalid_value"),
    ({"input": "x", "tools": [{**TOOL, "name": "a b"}]}, "tools[0].name", "invalid_value"),
    ({"input": "x", "tools": [TOOL, {"type": "custom", "name": "f"}]}, "tools[1].name", "invalid_value"),
    ({"input": "x", "tools": [{**TOOL, "defer_loading": True}]}, "tools[0].defer_loading", "invalid_value"),
    (
        {"input": "x", "tools": [{"type": "custom", "name": "f", "format": LARK}]},
        "tools[0].format.syntax",
        "unsupported_parameter",
    ),
    ({"input": "x", "tool_choice": {"type": "file_search"}}, "tool_choice", "unsupported_parameter"),
    (
        {"input": "x", "tools": [TOOL], "tool_choice": {**ALLOWED, "tools": [{"type": "function"}]}},
        "tool_choice.tools[0].name",
        "missing_required_parameter",
    ),
    (
        {
            "input": "x",
            "tools": [TOOL],
            "tool_choice": {**ALLOWED, "tools": [{"type": "function", "name": "g"}]},
        },
        "tool_choice",
        "invalid_value",
    ),
    ({"input": "x", "tools": [TOOL], "tool_choice": "f"}, "tool_choice", "invalid_value"),
    (
        {"input": "x", "tools": [TOOL], "tool_choice": {"type": "function", "name": "g"}},
        "tool_choice",
        "invalid_value",
    ),
    ({"input": "x", "tool_choice": "required"}, "tool_choice", "invalid_value"),
    ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
    ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role", "invalid_value"),
    ({"input": [{"role": "user", "content": 3}]}, "input[0].content", "invalid_type"),
    ({"input": [{"role": "user", "content": "x", "foo": 1}]}, "input[0].foo", "unknown_parameter"),
    ({"input": ["x"]}, "input[0]", "invalid_type"),
    ({"input": [{"type": "computer_call"}]}, "input[0]", "unsupported_parameter"),
    ({"input": [{"type": "telepathy"}]}, "input[0]", "invalid_value"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "x"}]}]},
        "input[0].content[0]",
        "unsupported_parameter",
    ),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]},
        "input[0].content[0].image_url",
        "missing_required_parameter",
    ),
    ({"input": [{"type": "item_reference", "id": ""}]}, "input[0].id", "invalid_value"),
    ({"input": [{"role": "user", "content": "x", "id": "\0"}]}, "input[0].id", "invalid_value"),
    ({"input": [{"type": "item_reference"}]}, "input[0].id", "missing_required_parameter"),
    (
        {"input": [{"type": "function_call_output", "call_id": "", "output": "x"}]},
        "input[0].call_id",
        "invalid_value",
    ),
    (
        {"input": [{"role": "assistant", "content": [{"type": "output_text"}]}]},
        "input[0].content[0].text",
        "missing_required_parameter",
    ),
    ({"input": [{"type": "function_call", "call_id": "c"}]}, "input[0].name", "missing_required_parameter"),
]


@pytest.mark.parametrize(("body", "param", "code"), REFUSED)
def test_refusals_name_the_field(body: dict[str, Any], param: str | None, code: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**body)
    assert (caught.value.param, caught.value.code, caught.value.status) == (param, code, 400)
    assert param is None or param in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        b'{"input": "x", "tools": [{"type": "function", "name": "f", "parameters": {"a": 1e400}}]}',
        b'{"input": [{"role": "assistant", "content": [{"type": "output_text", "text": "x",'
        b' "annotations": [{"index": NaN}]}]}]}',
        b'{"input": "x", "chat_template_kwargs": {"a": [NaN]}}',
        b"",
        b"{",
        b"[1]",
        b"null",
        b'"x"',
        b"\xff",
        b'{"input": "\\ud800"}',
        b'{"input": NaN}',
    ],
)
def test_junk_is_a_400(body: bytes) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_create(body, 3600)
    assert caught.value.status == 400


POINT = {"type": "input_text", "text": "x", "prompt_cache_breakpoint": {"mode": "explicit"}}


@pytest.mark.parametrize(
    ("fields", "ttl_s", "keep"),
    [
        ({}, 3600, True),
        ({"prompt_cache_retention": "in_memory"}, 3600, True),
        ({"prompt_cache_retention": "24h"}, 86400, True),
        ({"prompt_cache_options": {"ttl": "30m"}}, 3600, True),
        ({"prompt_cache_options": {"ttl": "12h"}}, 43200, True),
        ({"prompt_cache_options": {"ttl": "12h"}, "caching": {"ttl": 5}}, 5, True),
        ({"prompt_cache_options": {"mode": "explicit"}}, 3600, False),
        (
            {
                "prompt_cache_options": {"mode": "explicit"},
                "input": [{"role": "user", "content": [POINT]}],
            },
            3600,
            True,
        ),
        (
            {
                "input": [
                    {
                        "role": "user",
                        "content": [{**POINT, "prompt_cache_breakpoint": {"mode": "explicit", "ttl": "12h"}}],
                    }
                ]
            },
            43200,
            True,
        ),
    ],
)
def test_how_long_a_prefix_is_kept(fields: dict[str, Any], ttl_s: int, keep: bool) -> None:
    turn, _ = parse(**{"input": "x", **fields})
    assert (turn.caching.ttl_s, turn.caching.keep) == (ttl_s, keep)


def test_what_is_asked_for_reaches_the_turn() -> None:
    plain, _ = parse(input="x", instructions="")
    assert (plain.options.instructions, plain.options.top_logprobs) == (None, None)
    assert (plain.generate, plain.truncate, plain.seal_reasoning, plain.summarise) == (True,) + (False,) * 3
    turn, _ = parse(
        input="x",
        include=["message.output_text.logprobs", "reasoning.encrypted_content"],
        truncation="auto",
        reasoning={"effort": "low", "generate_summary": "concise"},
        prompt_cache_key="k",
        prompt_cache_options={"prewarm": True, "comparison_response_id": "resp_1"},
    )
    assert (turn.options.top_logprobs, turn.options.reasoning_effort) == (0, "low")
    assert (turn.generate, turn.truncate, turn.seal_reasoning, turn.summarise) == (False,) + (True,) * 3
    assert (turn.affinity, turn.compare) == ("k", "resp_1")
