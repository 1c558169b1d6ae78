"""Bringing a running turn to its client: as a stream of events, or as one object."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Coroutine
from typing import Any

import msgspec
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.background import BackgroundTask
from starlette.types import Message, Receive, Scope, Send

from app.conversation.output import Event
from app.conversation.running import RunningTurn
from app.prefix.wire import PATH_HEADER, REASON_HEADER

_encode = msgspec.json.Encoder().encode

logger = logging.getLogger("marginalia")

KEEP_ALIVE_S = 15.0
"""Proxies close connections that are silent for 30 or 60 seconds; a long prompt may take as long."""

CLIENT_CLOSED_REQUEST = 499
"""nginx's status for a client that hung up: nobody reads it but logs."""


def path_headers(turn: RunningTurn) -> dict[str, str]:
    """What the turn does with its prefix, as far as that is known."""
    said = {PATH_HEADER: turn.path, REASON_HEADER: turn.reason}
    return {name: value for name, value in said.items() if value}


class _Frames(StreamingResponse):
    """Server-sent events, those that come at once in one write, and comments in silence.

    The next ones are asked for once the last are out: for a slow client nothing piles up here.
    """

    def __init__(self, frames: AsyncIterator[bytes], headers: dict[str, str]) -> None:
        headers = {"cache-control": "no-cache", **headers}
        super().__init__(frames, headers=headers, media_type="text/event-stream")

    async def stream_response(self, send: Send) -> None:
        loop = asyncio.get_running_loop()
        sent_at = loop.time()

        async def watched(message: Message) -> None:
            nonlocal sent_at
            await send(message)
            sent_at = loop.time()
            if message["type"] == "http.response.start":
                comments.append(asyncio.create_task(comment()))

        async def comment() -> None:
            with contextlib.suppress(OSError):  # Who went away is noticed where the events are sent.
                while True:
                    await asyncio.sleep(sent_at + KEEP_ALIVE_S - loop.time())
                    if loop.time() >= sent_at + KEEP_ALIVE_S:
                        await watched({"type": "http.response.body", "body": _COMMENT, "more_body": True})

        comments: list[asyncio.Task[None]] = []
        try:
            await super().stream_response(watched)
        finally:
            for task in comments:
                task.cancel()


class EventStream(_Frames):
    """A turn's events; vLLM puts together what it has while they go out. Ends the turn whenever and however
    the client goes away."""

    def __init__(self, turn: RunningTurn) -> None:
        super().__init__(_frames(turn), path_headers(turn))
        self._turn = turn

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._turn.aclose()
            await self._turn.settle()


class LogStream(_Frames):
    """Events that are kept: a stream that breaks off is taken up again where it ended."""

    def __init__(self, events: AsyncIterator[list[Event]]) -> None:
        super().__init__((b"".join(map(_frame, some)) async for some in events), {})


_COMMENT = b": keep-alive\n\n"


async def _frames(turn: RunningTurn) -> AsyncIterator[bytes]:
    number = 0
    try:
        async for events in turn.events():
            yield b"".join(map(_frame, events))
            number = events[-1]["sequence_number"] + 1
    except Exception as exc:
        logger.error("unexpected error in a stream", exc_info=exc)
        error = {"code": "server_error", "message": "The server had an error.", "param": None}
        yield _frame({"type": "error", "sequence_number": number, **error})


def _frame(event: dict[str, Any]) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), _encode(event))


async def one_object(turn: RunningTurn, request: Request) -> Response:
    """The finished response; a client that hangs up meanwhile aborts the generation.

    Raises why the turn failed: without a stream, that is an HTTP error.
    """
    try:
        answer = await unless_gone(_last_response(turn), request)
    finally:
        await turn.aclose()
    if turn.failure is not None:
        raise turn.failure
    answer.headers.update(path_headers(turn))
    answer.background = BackgroundTask(turn.settle)
    return answer


async def unless_gone(making: Coroutine[Any, Any, dict[str, Any]], request: Request) -> Response:
    """What `making` gives, as JSON; a client that hangs up meanwhile cancels it."""
    finishing = asyncio.create_task(making)
    hanging_up = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({finishing, hanging_up}, return_when=asyncio.FIRST_COMPLETED)
        if not finishing.done():
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        return Response(_encode(finishing.result()), media_type="application/json")
    finally:
        hanging_up.cancel()
        finishing.cancel()
        await asyncio.wait({finishing, hanging_up})


async def _last_response(turn: RunningTurn) -> dict[str, Any]:
    response: dict[str, Any] = {}
    async for events in turn.events():
        response = events[-1].get("response", response)
    return response


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
