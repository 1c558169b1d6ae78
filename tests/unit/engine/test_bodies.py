"""Options of a generation as vLLM's chat request has them."""

from typing import Any

import pytest

from app.conversation.engine import Generation, Whole
from app.conversation.options import Options
from app.engine.bodies import grammar_field, stock_body, tokenize_body
from app.engine.refusals import refused
from app.errors import ContextLengthExceeded, EngineError, InvalidRequest, MarginaliaError, ModelNotFound

PROMPT = Whole((), (), None, "x")
SCHEMA = {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}
SHELL = {"type": "custom", "name": "sh", "format": {"type": "text"}}


def body(**options: Any) -> dict[str, Any]:
    generation = Generation("m", Options(**options), "ns", "sampled", False)
    return stock_body(generation, PROMPT)


def test_what_is_not_asked_for_is_left_to_vllm() -> None:
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    assert body() == {"model": "m", "messages": [], "cache_salt": "ns", **stream}


def test_formats() -> None:
    assert "response_format" not in body(text_format={"type": "text"})
    assert body(text_format={"type": "json_object"})["response_format"] == {"type": "json_object"}
    schema = {"name": "n", "schema": {"type": "object"}, "strict": True}
    assert body(text_format=SCHEMA)["response_format"] == {"type": "json_schema", "json_schema": schema}


def test_template_arguments_stand_beside_the_verbosity() -> None:
    own = {"chat_template_kwargs": {"verbosity": "high"}}
    assert body(verbosity="low", extras=own)["chat_template_kwargs"] == {"verbosity": "high"}
    extras = {"chat_template_kwargs": {"a": 1}, "seed": 3}
    made = body(verbosity="low", reasoning_effort="high", extras=extras)
    assert made["chat_template_kwargs"] == {"verbosity": "low", "a": 1}
    assert (made["seed"], made["reasoning_effort"]) == (3, "high")
    assert extras == {"chat_template_kwargs": {"a": 1}, "seed": 3}


def test_tools_that_are_not_allowed_are_not_sent() -> None:
    other = {**SHELL, "name": "other"}
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "sh"}]}
    made = body(tools=(SHELL, other), tool_choice=allowed)
    assert ([tool["function"]["name"] for tool in made["tools"]], made["tool_choice"]) == (["sh"], "auto")


def test_log_probabilities() -> None:
    assert "logprobs" not in body()
    asked = body(top_logprobs=0)
    assert (asked["logprobs"], asked["top_logprobs"]) == (True, 0)


@pytest.mark.parametrize(("effort", "thinks"), [("none", False), ("low", True)])
def test_counting_renders_as_an_answer_would(effort: str, thinks: bool) -> None:
    generation = Generation("m", Options(reasoning_effort=effort, tools=(SHELL,)), "ns", "sampled", False)
    counted = tokenize_body(generation, PROMPT)
    assert counted["chat_template_kwargs"] == {"reasoning_effort": effort, "enable_thinking": thinks}
    assert [tool["function"]["name"] for tool in counted["tools"]] == ["sh"]
    assert counted.keys() == {"model", "messages", "chat_template_kwargs", "tools"}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (Options(), None),
        (Options(tools=(SHELL,)), "tools"),
        (Options(tools=(SHELL,), text_format=SCHEMA), "text.format"),
        (Options(extras={"structured_outputs": {"regex": "a"}}), "structured_outputs"),
    ],
)
def test_the_field_that_a_grammar_is_made_of(options: Options, field: str | None) -> None:
    assert grammar_field(options) == field


@pytest.mark.parametrize(
    ("status", "error", "kind", "param"),
    [
        (404, {"message": "no such model"}, ModelNotFound, "model"),
        (400, {"message": "maximum context length is 5"}, ContextLengthExceeded, "input"),
        (400, {"message": "bad", "param": "max_completion_tokens"}, InvalidRequest, "max_output_tokens"),
        (400, {"message": "bad", "param": "stop"}, InvalidRequest, "stop"),
        (400, {"message": "Grammar error: no"}, InvalidRequest, "tools"),
        (422, {}, InvalidRequest, None),
        (500, {"message": "boom"}, EngineError, None),
    ],
)
def test_vllms_refusals_in_our_words(
    status: int, error: dict[str, Any], kind: type[MarginaliaError], param: str | None
) -> None:
    refusal = refused(status, error, "tools")
    assert (type(refusal), refusal.param) == (kind, param)
    assert "max_completion_tokens" not in refusal.message


@pytest.mark.parametrize(
    ("status", "error", "kind", "param"),
    [
        (400, {"message": "m is not a multimodal model"}, InvalidRequest, "input"),
        (400, {"message": "min_tokens must be less than or equal to 5"}, InvalidRequest, "min_tokens"),
        (400, {"message": "The JSON schema is nested too deeply"}, InvalidRequest, None),
        (400, {"message": "bad", "param": "stop"}, InvalidRequest, "stop"),
        (422, {"message": "HTTP 404 error", "param": "image_url"}, InvalidRequest, "input"),
        (500, {"message": "Cannot connect to host"}, InvalidRequest, "input"),
        (501, {"message": "Only base64 data URLs"}, InvalidRequest, "input"),
        (500, {"message": "EngineCore encountered an issue. See stack trace"}, EngineError, None),
        (503, {"message": "full"}, EngineError, None),
    ],
)
def test_what_vllm_says_of_images(
    status: int, error: dict[str, Any], kind: type[MarginaliaError], param: str | None
) -> None:
    refusal = refused(status, error, images=True)
    assert (type(refusal), refusal.param) == (kind, param)


DUMP = """2 validation errors for ChatCompletionRequest
{}
  Input should be a valid boolean [type=bool_parsing, input_value=5, input_type=int]
    For further information visit https://errors.pydantic.dev/2.14/v/bool_parsing
stop.str
  Input should be a valid string [type=string_type, input_value=4, input_type=int]"""
STOCK = """1 validation error:
  {'type': 'enum', 'loc': 'body.messages.0.role', 'msg': "Input should be 'a', 'b' or 'c'", 'input': 5}"""


@pytest.mark.parametrize(
    ("message", "param", "said"),
    [
        (
            DUMP.format("structured_outputs.disable_any_whitespace"),
            "structured_outputs",
            "Invalid 'structured_outputs': Input should be a valid boolean.",
        ),
        (
            DUMP.format("response_format.function-wrap[__log_extra_fields__()].json_schema"),
            "text.format",
            "Invalid 'text.format': Input should be a valid boolean.",
        ),
        (STOCK, "input", "Invalid 'input': Input should be 'a', 'b' or 'c'."),
        (
            "min_tokens must be less than or equal to max_tokens=3, got 5.",
            "min_tokens",
            "min_tokens must be less than or equal to max_output_tokens=3, got 5.",
        ),
        ("stop cannot contain an empty string.", "stop", None),
        (
            "You can only use one kind of structured outputs constraint but multiple are specified: "
            "{'json': None, 'regex': 'a', '_backend': None}",
            "structured_outputs",
            "You can only use one kind of structured outputs constraint but multiple are specified",
        ),
        (
            "thinking_token_budget is set but reasoning_config is not configured.",
            "thinking_token_budget",
            None,
        ),
        ("It is not said whose min_tokens must be larger.", None, None),
    ],
)
@pytest.mark.parametrize("images", [False, True])
def test_vllms_refusals_without_a_param(
    message: str, param: str | None, said: str | None, images: bool
) -> None:
    refusal = refused(400, {"message": message, "param": None}, images=images)
    assert (type(refusal), refusal.message) == (InvalidRequest, said or message)
    assert refusal.param == (param or ("input" if images else None))


def test_a_param_of_vllms_own_route() -> None:
    assert refused(400, {"message": STOCK, "param": "body.messages.0.role"}).param == "input"
    assert refused(400, {"message": "no such", "param": "body.tools.0.type"}).param == "tools"
