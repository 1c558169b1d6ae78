"""Why a turn's prompt was, or was not, in the engine's cache as an earlier one's: `prompt_cache_diagnostics`.

The variants and what they mean are OpenAI's (the SDK's `PromptCacheDiagnostics`, and the guide "Prompt cache
diagnostics"): a miss is a difference that kept the compared prompt from being used again, its counts are of
that prompt's tokens, and `unavailable` claims nothing.

The counts are exact; the reason is the likeliest, since nothing tells which fields the template printed.
Tools and instructions surely are: changed tools are the reason, changed instructions are changed input.
A turn that was compacted has another beginning for that.
Effort, format and verbosity are printed, if at all, about where the instructions are: changed, they are the
reason of a difference that begins no later, by an estimate; wrongly where it is the input's all the same.
"""

import json
from collections.abc import Callable
from typing import Any

from app.conversation.engine import Usage
from app.prefix.wire import Common

_BLOCK_TOKENS = 128
"""vLLM caches whole blocks, of 16 tokens by default and 128 on a CPU: up to one of them is computed again.
No worker says which, but what was cached is whole blocks: 992 tokens are none of 128."""
_PREAMBLE_TOKENS, _BYTES_PER_TOKEN = 256, 3
"""What a template may print by itself before the input, and how short tokens usually are at the shortest."""


def diagnose(
    compared: dict[str, Any] | None, body: dict[str, Any], usage: Usage, common: Common | None
) -> dict[str, Any]:
    """The answer to `comparison_response_id`, as one of the SDK's four variants.

    compared: body of the response that is compared with, None where there is none. body, usage: this turn's.
    common: what the worker says of the two prompts; None where it does not know both.
    """
    if compared is None:
        return {"type": "comparison_response_not_found"}
    other_model = body["model"] != compared["model"]
    if common is None:
        # Another model has nothing of it for certain; how much that is, only that response's own count says.
        # One in the background may have none yet, and never get one.
        if not other_model or compared["usage"] is None:
            return {"type": "unavailable"}
        return _miss("model_changed", compared["usage"]["input_tokens"], None)
    agrees = common.tokens >= common.reusable
    cached = usage.cached_tokens
    # The largest power of two that divides it; a block is one, and no larger.
    if agrees and common.reusable - cached < min(_BLOCK_TOKENS, cached & -cached):
        return {"type": "cache_hit"}
    if other_model:
        return _miss("model_changed", common.reusable, common.reusable)
    if agrees:
        # Too short for the cache, or the engine let go of it. No reason in the SDK's list says that.
        return {"type": "unavailable"}
    return _miss(_reason(compared, body, common.tokens), common.reusable - common.tokens, common.reusable)


def _miss(reason: str, missed: int, reusable: int | None) -> dict[str, Any]:
    return {
        "type": "cache_miss",
        "reason": reason,
        "cache_missed_tokens": missed,
        "comparison_reusable_tokens": reusable,
    }


def _reason(compared: dict[str, Any], body: dict[str, Any], at: int) -> str:
    """at: how many ids of the two prompts are the same. See the module."""

    def changed(part: Callable[[dict[str, Any]], Any]) -> bool:
        # As JSON, because a template prints keys in their order.
        return json.dumps(part(compared)) != json.dumps(part(body))

    if changed(_offered_tools):
        return "tools_changed"
    if (body.get("caching") or {}).get("reason") == "compacted":
        return "context_compacted"
    system = json.dumps((body["instructions"], body["tools"]), ensure_ascii=False).encode()
    if changed(lambda body: body["instructions"]) or at > _PREAMBLE_TOKENS + len(system) // _BYTES_PER_TOKEN:
        return "input_changed"
    return next((reason for reason, part in _SETTINGS.items() if changed(part)), "input_changed")


def _offered_tools(body: dict[str, Any]) -> Any:
    choice = body.get("tool_choice")
    allowed = choice["tools"] if isinstance(choice, dict) and choice["type"] == "allowed_tools" else None
    return body.get("tools"), allowed


_SETTINGS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "reasoning_effort_changed": lambda body: (body.get("reasoning") or {}).get("effort"),
    "text_format_changed": lambda body: (body.get("text") or {}).get("format"),
    "verbosity_changed": lambda body: (body.get("text") or {}).get("verbosity"),
}
"""What chat templates may print besides. Neither `prompt_cache_key` nor `service_tier` is among them: they
reach no prompt, and a KV cache here is a tenant's, whatever the key."""
