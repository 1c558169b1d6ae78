"""What vLLM says against a request, in the words of ours."""

from typing import Any

from app.errors import ContextLengthExceeded, EngineError, InvalidRequest, MarginaliaError, ModelNotFound

_PARAMS = {
    "max_completion_tokens": "max_output_tokens",
    "messages": "input",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
}
"""vLLM's names of request fields, where they are not ours."""


def refused(status: int, error: dict[str, Any], grammar: str | None = None) -> MarginaliaError:
    """The error for vLLM's `error` object, from the body of an answer or from its stream.

    grammar: the field that the answer's grammar is made of; vLLM's errors about grammars do not say it.
    """
    message = str(error.get("message", f"vLLM answered {status}.")).split(" (parameter=")[0]
    message = message.replace("max_completion_tokens", "max_output_tokens")
    if status == 404:
        return ModelNotFound(message, param="model")
    if status == 400 and "maximum context length" in message:
        return ContextLengthExceeded(message, param="input")
    if status == 400 and grammar is not None and "grammar" in message.lower():
        return InvalidRequest(f"Invalid '{grammar}': vLLM cannot decode by it: {message}", param=grammar)
    if status in (400, 422):
        return InvalidRequest(message, param=_param(error.get("param"), message))
    return EngineError(f"vLLM answered {status}: {message}")


def _param(param: Any, message: str) -> str | None:
    if isinstance(param, str):
        return _PARAMS.get(param, param)
    # An image for a model that sees none, or too many of them.
    return "input" if "multimodal" in message or "image(s)" in message else None
