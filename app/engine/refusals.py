"""What vLLM says against a request, in the words of ours."""

import re
from typing import Any

from app.errors import ContextLengthExceeded, EngineError, InvalidRequest, MarginaliaError, ModelNotFound

_PARAMS = {
    "max_completion_tokens": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "logprobs": "top_logprobs",
    "messages": "input",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "image_url": "input",
}
"""vLLM's names of request fields, where they are not ours."""
_BEGINNINGS = {
    "min_tokens must be ": "min_tokens",
    "thinking_token_budget is set ": "thinking_token_budget",
    "stop cannot contain ": "stop",
    "bad_words cannot contain ": "bad_words",
    "structured_outputs.": "structured_outputs",
    "Choice '": "structured_outputs",
    "You can only use one kind of ": "structured_outputs",
    "You must use one kind of ": "structured_outputs",
    "You can only either use constraints for structured outputs ": "structured_outputs",
}
"""How vLLM 0.32 begins what it says without a `param` of fields that we send; each is about one alone."""
_DUMPS = (
    re.compile(r"\d+ validation errors? for \w+\n(?P<field>\w+).*\n  (?P<what>.+?) \[type="),
    re.compile(
        r"\d+ validation errors?:\n.*?'loc': 'body\.(?P<field>\w+).*?', 'msg': (['\"])(?P<what>.+?)\2, "
    ),
)
"""Pydantic's errors as the plugin's route tells them, and as vLLM's own does: all, with what they found."""
_OF_GRAMMARS = re.compile("grammar|schema|structural tag|structured output|regex", re.IGNORECASE)
_DEAD_ENGINE = "EngineCore encountered an issue"


def refused(
    status: int, error: dict[str, Any], grammar: str | None = None, *, images: bool = False
) -> MarginaliaError:
    """The error for vLLM's `error` object, from the body of an answer or from its stream.

    grammar: the field that the answer's grammar is made of; vLLM's errors about grammars do not say it.
    images: nothing was answered, to messages with images. Of one that it cannot fetch or read vLLM often says
    no more than 500; where its engine fails at a prompt, it says so in the stream.
    """
    message, param = _first(str(error.get("message", f"vLLM answered {status}.")), error.get("param") or None)
    if status == 404:
        return ModelNotFound(message, param="model")
    if status == 400 and "maximum context length" in message:
        return ContextLengthExceeded(message, param="input")
    if status == 400 and grammar is not None and "grammar" in message.lower():
        return InvalidRequest(f"Invalid '{grammar}': vLLM cannot decode by it: {message}", param=grammar)
    if status in (400, 422):
        if param is None and images and not _OF_GRAMMARS.search(message):
            param = "input"
        return InvalidRequest(message, param=param)
    if images and status in (500, 501) and _DEAD_ENGINE not in message:
        return InvalidRequest(f"Invalid 'input': vLLM cannot take an image of it: {message}", param="input")
    return EngineError(f"vLLM answered {status}: {message}")


def _first(message: str, param: str | None) -> tuple[str, str | None]:
    """The first thing that vLLM's message says, in a line, and the field of ours that it is about."""
    if found := next((found for dump in _DUMPS if (found := dump.match(message))), None):
        field = _PARAMS.get(found["field"], found["field"])
        return f"Invalid '{field}': {found['what']}.", field
    # Of structured outputs it also prints all that it found in them.
    message = message.split(" (parameter=")[0].split(": {'json': ")[0]
    if param is None:
        param = next((field for words, field in _BEGINNINGS.items() if message.startswith(words)), None)
    else:
        param = param.removeprefix("body.").split(".")[0]
        param = _PARAMS.get(param, param)
    return re.sub(r"\bmax_(completion_)?tokens\b", "max_output_tokens", message), param
