"""The Response object as JSON: what is known when a turn starts, and what its end adds."""

import time
from typing import Any

from app.conversation.engine import Outcome, Usage
from app.conversation.plan import TurnRequest


def new_body(
    request: TurnRequest, response_id: str, model: str, path: str, reason: str | None
) -> dict[str, Any]:
    """The body of a response that is in progress, without `output`; every request field is repeated."""
    return {
        "id": response_id,
        "object": "response",
        "created_at": int(time.time()),
        "status": "in_progress",
        "completed_at": None,
        "error": None,
        "incomplete_details": None,
        "model": model,
        "instructions": request.instructions,
        "previous_response_id": request.previous_response_id,
        "store": request.store,
        "tools": list(request.tools),
        "tool_choice": request.tool_choice,
        "parallel_tool_calls": request.parallel_tool_calls,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "max_output_tokens": request.max_output_tokens,
        **request.echo,
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


def failure(message: str) -> dict[str, Any]:
    return {
        "status": "failed",
        "error": {"code": "server_error", "message": message},
        "incomplete_details": None,
        "completed_at": None,
    }


def accounts(request: TurnRequest, usage: Usage, outcome: Outcome) -> dict[str, Any]:
    """Token counts, as vLLM and the plugin made them."""
    return {
        "usage": {
            "input_tokens": usage.input_tokens,
            "input_tokens_details": {
                "cached_tokens": usage.cached_tokens,
                "cache_write_tokens": usage.cache_write_tokens,
            },
            "output_tokens": usage.output_tokens,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
            "total_tokens": usage.input_tokens + usage.output_tokens,
        },
        "caching": {
            "type": "enabled" if request.caching.enabled else "disabled",
            "path": outcome.path,
            "reason": outcome.reason,
            "reused_tokens": outcome.reused_tokens,
            "tokenized_tokens": outcome.tokenized_tokens,
            "sampled_reused": outcome.sampled_reused,
        },
    }
