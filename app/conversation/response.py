"""The Response object as JSON: what is known when a turn starts, and what its end adds."""

import time
from dataclasses import replace
from datetime import datetime
from typing import Any

from app.conversation.engine import Usage
from app.conversation.plan import TurnRequest
from app.conversation.rounds import Rounds
from app.errors import InvalidRequest, MarginaliaError


def new_body(
    request: TurnRequest,
    response_id: str,
    model: str,
    created_at: datetime,
    path: str | None = None,
    reason: str | None = None,
) -> dict[str, Any]:
    """The body of a response that is in progress, without `output`; every request field is repeated.

    path: what it does with its prefix, where that is known.
    """
    options = request.options
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(created_at.timestamp()),
        "status": "in_progress",
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "instructions": options.instructions,
        "previous_response_id": None if request.conversation else request.previous_response_id,
        "conversation": {"id": request.conversation} if request.conversation else None,
        "tools": list(options.tools),
        "tool_choice": options.tool_choice,
        "parallel_tool_calls": options.parallel_tool_calls,
        "temperature": options.temperature,
        "top_p": options.top_p,
        "top_logprobs": options.top_logprobs or 0,
        "max_output_tokens": options.max_output_tokens,
        "text": {"format": options.text_format, "verbosity": options.verbosity or "medium"},
        "truncation": "auto" if request.truncate else "disabled",
        "background": request.background,
        **request.echo,
        "prompt_cache_diagnostics": None,
        "usage": None,
        "caching": {
            "type": "enabled" if request.caching.enabled else "disabled",
            "path": path,
            "reason": reason,
        },
    }


def ending(finish_reason: str | None) -> dict[str, Any]:
    """Status fields by vLLM's finish reason."""
    if finish_reason == "length":
        return {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    return {"status": "completed", "completed_at": int(time.time())}


def failure(error: MarginaliaError) -> dict[str, Any]:
    """Status fields of a turn that broke off."""
    code = "invalid_prompt" if isinstance(error, InvalidRequest) else "server_error"
    return {
        "status": "failed",
        "error": {"code": code, "message": error.message},
        "incomplete_details": None,
        "completed_at": None,
    }


def accounts(request: TurnRequest, rounds: Rounds) -> dict[str, Any]:
    """Token counts, as vLLM and the plugin made them. The one token that preparing a prefix costs is none."""
    usage = rounds.usage
    if not request.generate:
        usage = replace(usage, output_tokens=0, reasoning_tokens=0)
    return {
        "usage": usage_as_json(usage),
        "caching": {
            "type": "enabled" if request.caching.enabled else "disabled",
            **rounds.caching,
        },
    }


def usage_as_json(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        },
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
