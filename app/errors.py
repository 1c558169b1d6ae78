"""Every error that Marginalia raises on purpose, in one tree.

`status`, `type` and `code` are OpenAI's; `api/errors.py` is the only renderer.
`param` names the request field at fault, where there is one.
"""

from typing import ClassVar


class MarginaliaError(Exception):
    """Root of the tree: an answer that the client gets, with OpenAI's envelope."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: ClassVar[str | None] = "internal_error"

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param


class InvalidRequest(MarginaliaError):
    status = 400
    type = "invalid_request_error"
    code = "invalid_value"


class MissingParameter(InvalidRequest):
    code = "missing_required_parameter"


class InvalidType(InvalidRequest):
    code = "invalid_type"


class InvalidJson(InvalidRequest):
    code = "invalid_json"


class UnknownParameter(InvalidRequest):
    code = "unknown_parameter"


class UnsupportedParameter(InvalidRequest):
    code = "unsupported_parameter"


class PreviousResponseNotFound(InvalidRequest):
    code = "previous_response_not_found"


class ContextLengthExceeded(InvalidRequest):
    code = "context_length_exceeded"


class InvalidEncryptedContent(InvalidRequest):
    code = "invalid_encrypted_content"


class UnsupportedContentType(InvalidRequest):
    code = "unsupported_content_type"


class InvalidStreamId(InvalidRequest):
    code = "invalid_stream_id"


class StreamLimitReached(InvalidRequest):
    code = "websocket_stream_limit_reached"


class TooManyWaiting(InvalidRequest):
    status = 429
    code = "rate_limit_exceeded"


class ForeignOrigin(InvalidRequest):
    status = 403
    code = "foreign_origin"


class RequestTooLarge(InvalidRequest):
    status = 413
    code = "request_too_large"


class NotFound(MarginaliaError):
    status = 404
    type = "invalid_request_error"
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class ConversationBusy(MarginaliaError):
    """Another turn of the conversation has begun and not ended."""

    status = 409
    type = "invalid_request_error"
    code = "conversation_locked"


class EngineError(MarginaliaError):
    """vLLM answered with an error or broke off in the middle of a turn."""

    status = 502
    code = "engine_error"


class EngineUnavailable(EngineError):
    """No worker could be reached."""

    status = 503
    code = "engine_unavailable"


class StoreUnavailable(MarginaliaError):
    """Postgres could not be reached."""

    status = 503
    code = "store_unavailable"


class SetupError(MarginaliaError):
    """A stage of the set-up failed. `hint` is what the operator can do about it."""

    code = "setup_failed"

    def __init__(self, message: str, *, hint: str) -> None:
        super().__init__(message)
        self.hint = hint
