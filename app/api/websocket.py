"""The WebSocket at `/v1/responses`: turns by messages, their events as messages."""

import logging
from contextlib import aclosing, suppress

import msgspec
from fastapi import APIRouter, WebSocket, WebSocketDisconnect
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers

from app.api.body import MAX_BODY_BYTES
from app.api.errors import envelope
from app.api.lanes import Lanes
from app.api.requests import parse
from app.api.routes import Services
from app.api.sessions import session_of
from app.api.socket_messages import (
    STEER,
    CreateMessage,
    Event,
    bug_event,
    error_event,
    head,
    not_steered,
)
from app.conversation.records import DEFAULT_TENANT
from app.conversation.running import RunningTurn
from app.conversation.socket_store import SocketStore
from app.errors import (
    ForeignOrigin,
    InvalidRequest,
    MarginaliaError,
    RequestTooLarge,
    StreamLimitReached,
    TooManyWaiting,
)

logger = logging.getLogger("marginalia")

router = APIRouter()

_encode = msgspec.json.Encoder().encode

GOODBYE = 1000
"""The code of a client that closes because it is done. Any other may come back and go on."""
_LOST = 1006

_AT_ONCE = 16
"""References to drop: each is a request of its own."""


@router.websocket("/v1/responses")
async def responses(websocket: WebSocket) -> None:
    if not is_own_origin(websocket.headers):
        exc = ForeignOrigin("A web page may open a WebSocket only to the server that it is from.")
        error = envelope(exc.message, exc.type, exc.code, exc.param)
        await websocket.send_denial_response(JSONResponse(error, exc.status))
        return
    await websocket.accept()
    await Connection(websocket, websocket.app.state.services).serve()


def is_own_origin(headers: Headers) -> bool:
    """Whether no browser sent it, or one that shows a page of this server.

    Browsers let any page open a WebSocket to any server, unlike requests with a JSON body.
    """
    host = headers.get("host", "")
    return all(_is_of(origin, host) for origin in headers.getlist("origin"))


def _is_of(origin: str, host: str) -> bool:
    scheme, _, place = origin.partition("://")
    port = {"http": ":80", "https": ":443"}.get(scheme, "")
    return bool(place) and place.lower().removesuffix(port) == host.lower().removesuffix(port)


class Connection:
    """One WebSocket, from when it is open. An event is asked for once the one before is out, so that nothing
    piles up for a slow client; whatever runs is aborted once it has gone."""

    def __init__(self, websocket: WebSocket, services: Services) -> None:
        self._websocket = websocket
        self._services = services
        self._store = SocketStore(services.store)
        self._turns = services.turns.over(self._store, self._store.keep)
        self._lanes = Lanes(self._respond)

    async def serve(self) -> None:
        """Until the client closes, or is lost."""
        code = _LOST
        try:
            with suppress(WebSocketDisconnect):
                code = await self._receive()
        finally:
            await self._lanes.aclose()
        if code == GOODBYE:
            useless = self._store.checkpoints()
            for at in range(0, len(useless), _AT_ONCE):
                await self._services.engine.forget(useless[at : at + _AT_ONCE])

    async def _receive(self) -> int:
        """Take messages until the client closes; gives its code."""
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return int(message.get("code", _LOST))
            data = message.get("bytes")
            await self._take(message["text"].encode() if data is None else data)

    async def _take(self, message: bytes) -> None:
        try:
            if len(message) > MAX_BODY_BYTES:
                raise RequestTooLarge(f"The message is longer than {MAX_BODY_BYTES >> 20} MiB.")
            found = head(message)
            if found.type == STEER:
                await self._send(not_steered(message))
                return
        except MarginaliaError as exc:
            await self._send(error_event(exc))
            return
        try:
            self._lanes.add(message, found.stream_id)
        except (StreamLimitReached, TooManyWaiting) as exc:
            await self._send(error_event(exc), found.stream_id)

    async def _respond(self, message: bytes, stream_id: str | None) -> None:
        """Raises WebSocketDisconnect. That the client has gone, `_receive` is told too."""
        try:
            turn = await self._start(message)
        except MarginaliaError as exc:
            await self._send(error_event(exc), stream_id)
        except Exception as exc:
            logger.error("unexpected error at the start of a turn", exc_info=exc)
            await self._send(bug_event(), stream_id)
        else:
            await self._stream(turn, stream_id)

    async def _start(self, message: bytes) -> RunningTurn:
        """Raises as Turns.start does. What the handshake's headers say of a session holds for each turn."""
        contexts = self._services.contexts
        asked = parse(CreateMessage, message)
        session = await session_of(self._websocket.headers, contexts, DEFAULT_TENANT, renew=True)
        request = session.starting(session.completed(asked).turn(self._services.prefix_ttl_seconds))
        parent = request.previous_response_id
        if request.store and parent and self._store.holds(DEFAULT_TENANT, parent):
            raise InvalidRequest(
                "A response that is stored cannot continue one that is not: what was said before would be "
                "missing. Send store: false, or the whole conversation as input.",
                param="store",
            )
        turn = await self._turns.start(request, DEFAULT_TENANT)
        session.began(contexts, turn)
        return turn

    async def _stream(self, turn: RunningTurn, stream_id: str | None) -> None:
        number = 0
        try:
            async with aclosing(turn.events()) as batches:
                async for events in batches:
                    for event in events:
                        await self._send(event, stream_id)
                        number = event["sequence_number"] + 1
        except WebSocketDisconnect:
            raise
        except Exception as exc:
            logger.error("unexpected error in a stream", exc_info=exc)
            await self._send(bug_event(number), stream_id)
        finally:
            await turn.aclose()
            await turn.settle()

    async def _send(self, event: Event, stream_id: str | None = None) -> None:
        """Raises WebSocketDisconnect."""
        tagged = event if stream_id is None else {**event, "stream_id": stream_id}
        try:
            await self._websocket.send_text(_encode(tagged).decode())
        except RuntimeError as exc:
            # The server has closed by itself: a message too long for it, or a ping without an answer.
            raise WebSocketDisconnect(_LOST) from exc
