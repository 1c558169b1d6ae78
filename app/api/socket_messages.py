"""Messages of a WebSocket: what its client sends, and the frames that tell it of errors."""

import re
from dataclasses import replace
from typing import Annotated, Any, Literal

import msgspec
from pydantic import AfterValidator, Field

from app.api.errors import envelope
from app.api.requests import CreateResponse, parse
from app.api.strict import Absent, Strict, unsupported
from app.conversation.plan import TurnRequest
from app.errors import InvalidJson, InvalidRequest, InvalidStreamId, MarginaliaError, MissingParameter

Event = dict[str, Any]

CREATE = "response.create"
STEER = "response.steer"

_STREAM_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}")


class Head(msgspec.Struct, frozen=True):
    """What says what to do with a message: all else is looked at in its turn."""

    type: Any = None
    stream_id: Any = None


def head(message: bytes) -> Head:
    """Raises InvalidJson, MissingParameter, InvalidStreamId, InvalidRequest for an unknown type."""
    try:
        found = msgspec.json.decode(message, type=Head)
    except msgspec.ValidationError as exc:
        raise InvalidRequest(f"A message is a JSON object: {exc}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidJson(f"We could not parse the JSON of your message: {exc}.") from None
    if found.type is None:
        raise MissingParameter("Missing required parameter: 'type'.", param="type")
    if found.type not in (CREATE, STEER):
        raise InvalidRequest(f"Unknown type of message: it can be '{CREATE}'.", param="type")
    valid = isinstance(found.stream_id, str) and _STREAM_ID.fullmatch(found.stream_id)
    if found.stream_id is not None and not valid:
        raise InvalidStreamId(
            "A stream_id is a string of 1 to 256 letters, digits, underscores, hyphens and periods.",
            param="stream_id",
        )
    return found


def _not_here(background: bool | None) -> bool | None:
    if background:
        raise unsupported("There are no responses in the background over a WebSocket")
    return background


class CreateMessage(CreateResponse):
    """`response.create`: the body of `POST /v1/responses`, and what is of the connection.

    stream: has no effect, there is nothing but streams. generate: False prepares the prefix only.
    """

    type: Literal["response.create"]
    stream_id: str | None = None
    generate: bool | None = True
    background: Annotated[bool | None, AfterValidator(_not_here)] = None
    background_options: Absent = None

    @property
    def streamed(self) -> bool:
        return True

    def turn(self, default_ttl_s: int) -> TurnRequest:
        """Raises InvalidRequest."""
        request = super().turn(default_ttl_s)
        return replace(request, generate=request.generate and self.generate is not False)


class SteerMessage(Strict):
    """`response.steer`: input for a response that runs."""

    type: Literal["response.steer"]
    previous_response_id: str
    input: str | Annotated[list[Any], Field(min_length=1)]


def not_steered(message: bytes) -> Event:
    """The answer to a `response.steer`: it has its input back. Raises InvalidRequest."""
    steer = parse(SteerMessage, message)
    return {
        "type": "response.steer.failed",
        "sequence_number": 0,
        "error": {
            "type": "invalid_request_error",
            "code": "steering_not_supported",
            "message": "A response cannot be steered here. Send the input once it has ended.",
        },
        "steer": {"previous_response_id": steer.previous_response_id, "input": steer.input},
    }


def error_event(exc: MarginaliaError) -> Event:
    """As OpenAI frames errors over a WebSocket."""
    return {"type": "error", "status": exc.status, **envelope(exc.message, exc.type, exc.code, exc.param)}


def bug_event(number: int | None = None) -> Event:
    """number: the sequence number, in the stream that it breaks off."""
    numbered = {} if number is None else {"sequence_number": number}
    error = envelope("The server had an error.", "server_error", "internal_error")
    return {"type": "error", **numbered, "status": 500, **error}
