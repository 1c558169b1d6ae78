"""What vLLM says against a request, in the words of ours."""

from typing import Any

from app.errors import ContextLengthExceeded, EngineError, InvalidRequest, MarginaliaError, ModelNotFound

_PARAMS = {
    "max_completion_tokens": "max_output_tokens",
    "messages": "input",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "image_url": "input",
}
"""vLLM's names of request fields, where they are not ours."""
_DEAD_ENGINE = "EngineCore encountered an issue"


def refused(
    status: int, error: dict[str, Any], grammar: str | None = None, *, images: bool = False
) -> MarginaliaError:
    """The error for vLLM's `error` object, from the body of an answer or from its stream.

    grammar: the field that the answer's grammar is made of; vLLM's errors about grammars do not say it.
    images: nothing was answered, to messages with images. Of one that it cannot fetch or read vLLM often says
    no more than 500; where its engine fails at a prompt, it says so in the stream.
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
        param = error.get("param") or ("messages" if images else "")
        return InvalidRequest(message, param=_PARAMS.get(param, param) or None)
    if images and status in (500, 501) and _DEAD_ENGINE not in message:
        return InvalidRequest(f"Invalid 'input': vLLM cannot take an image of it: {message}", param="input")
    return EngineError(f"vLLM answered {status}: {message}")
