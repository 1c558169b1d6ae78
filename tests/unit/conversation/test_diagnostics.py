"""Why a prompt was cached as an earlier one's or not, from what is known at a turn's end."""

from typing import Any

import pytest
from openai.types.responses.response import PromptCacheDiagnostics

from app.conversation.diagnostics import diagnose
from app.conversation.engine import Usage
from app.prefix.wire import Common
from tests.contract.strict import adapter, check

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"a": {}, "b": {}}}}
BODY: dict[str, Any] = {
    "model": "m",
    "instructions": "Be brief.",
    "tools": [TOOL],
    "tool_choice": "auto",
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "reasoning": {"effort": "low", "summary": None},
    "prompt_cache_key": None,
    "service_tier": "default",
    "usage": {"input_tokens": 1010},
}
NO_CLAIM = {"type": "unavailable"}
HIT = {"type": "cache_hit"}

_variant = adapter(PromptCacheDiagnostics)


def said(
    tokens: int | None = 1000,
    reusable: int = 1000,
    cached: int = 992,
    compared: dict[str, Any] | None = BODY,
    **changes: Any,
) -> dict[str, Any]:
    """What is said of a turn with such counts, whose request differs from the compared one in `changes`."""
    common = None if tokens is None else Common(tokens, reusable)
    body = {**BODY, "usage": {"input_tokens": 1500}, **changes}
    diagnosis = diagnose(compared, body, Usage(input_tokens=1500, cached_tokens=cached), common)
    check(_variant, diagnosis, "the diagnosis")
    return diagnosis


def miss(reason: str, missed: int, reusable: int | None = 1000) -> dict[str, Any]:
    return {
        "type": "cache_miss",
        "reason": reason,
        "cache_missed_tokens": missed,
        "comparison_reusable_tokens": reusable,
    }


def test_a_response_that_is_not_there() -> None:
    assert said(compared=None) == {"type": "comparison_response_not_found"}


@pytest.mark.parametrize("model", ["m", "other"])
def test_a_response_that_has_no_usage(model: str) -> None:
    """It is in the background, and has not ended, or not well."""
    assert said(None, compared={**BODY, "usage": None}, model=model) == NO_CLAIM


@pytest.mark.parametrize("tokens", [1000, 1004])
@pytest.mark.parametrize("cached", [992, 896, 1008])
def test_a_prompt_that_begins_as_the_other_and_was_cached_is_a_hit(tokens: int, cached: int) -> None:
    """All of the other's whole blocks, or more; what a request says else is no matter."""
    assert said(tokens, cached=cached) == HIT
    assert said(tokens, cached=cached, tools=[], reasoning=None, prompt_cache_key="k", model="alias") == HIT


# The last: 55 blocks of 16, after which there were 7 more.
@pytest.mark.parametrize("cached", [0, 128, 768, 880])
def test_equal_prompts_that_the_engine_no_longer_held_are_no_hit(cached: int) -> None:
    assert said(cached=cached) == NO_CLAIM


def test_a_prompt_too_short_for_the_cache_is_no_hit() -> None:
    assert said(40, 40, cached=0) == NO_CLAIM
    assert said(40, 40, cached=32) == HIT


def test_the_same_ids_for_another_model_are_not_the_same() -> None:
    """An adapter on the same server has the same tokenizer and template, and a cache of its own."""
    assert said(cached=0, model="adapter") == miss("model_changed", 1000)


@pytest.mark.parametrize(
    ("reason", "changes"),
    [
        ("model_changed", {"model": "other", "tools": []}),
        ("tools_changed", {"tools": [], "reasoning": {"effort": "high"}}),
        ("tools_changed", {"tools": [TOOL, TOOL]}),
        ("tools_changed", {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [TOOL]}}),
        ("tools_changed", {"tools": [{**TOOL, "parameters": dict(reversed(TOOL["parameters"].items()))}]}),
        ("reasoning_effort_changed", {"reasoning": {"effort": "high", "summary": None}}),
        ("reasoning_effort_changed", {"reasoning": None}),
        ("text_format_changed", {"text": {"format": {"type": "json_object"}, "verbosity": "low"}}),
        ("verbosity_changed", {"text": {"format": {"type": "text"}, "verbosity": "low"}}),
        ("input_changed", {}),
        ("input_changed", {"tool_choice": "required"}),
        ("input_changed", {"reasoning": {"effort": "low", "summary": "auto"}}),
        ("input_changed", {"instructions": "Be long."}),
        ("input_changed", {"instructions": None, "reasoning": None}),
        # Neither is in a prompt, nor in the way of a cache: to change it back would not help.
        ("input_changed", {"prompt_cache_key": "k", "service_tier": "flex"}),
    ],
)
def test_a_prompt_that_parts_from_the_other_early_is_a_miss(reason: str, changes: dict[str, Any]) -> None:
    missed = 1000 if reason == "model_changed" else 970
    assert said(30, cached=16, **changes) == miss(reason, missed)


@pytest.mark.parametrize("setting", [{"reasoning": None}, {"text": {"format": {"type": "json_object"}}}])
def test_a_setting_is_not_the_reason_of_a_difference_after_the_instructions(setting: dict[str, Any]) -> None:
    assert said(600, cached=592, **setting) == miss("input_changed", 400)
    long = {**BODY, "instructions": "Be brief. " * 200}
    assert said(600, cached=592, compared=long, **setting, instructions=long["instructions"]) != miss(
        "input_changed", 400
    )


def test_some_templates_print_tools_late() -> None:
    assert said(600, cached=592, tools=[]) == miss("tools_changed", 400)


def test_what_another_prompt_left_in_the_cache_is_not_the_compared_ones() -> None:
    assert said(300, cached=1488) == miss("input_changed", 700)


def test_without_counts_only_another_model_says_something() -> None:
    """And that with the other response's own count: how much of it could be used again is not known."""
    assert said(None) == said(None, tools=[], cached=0) == NO_CLAIM
    assert said(None, cached=0, model="other") == miss("model_changed", 1010, None)
