"""Inside vLLM's API process: when a request came, when the engine was asked and answered, and with which ids.

`--middleware bench.tap.Tap` puts it there. It keeps references while a request is timed and reads clocks;
what costs (hashing the ids) is done when `GET /bench/seen` asks for it. The clock is CLOCK_MONOTONIC, which
is the same in every process of a machine.
"""

import json
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from typing import Any

import numpy as np
import xxhash

SEEN = "/bench/seen"
KEPT = 16
"""Requests: each holds a prompt's ids, and most scenarios never ask for those that only prepare."""

Scope = dict[str, Any]
Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_CURRENT: ContextVar["Seen | None"] = ContextVar("_CURRENT", default=None)


class Seen:
    """One POST request. Times in seconds."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.received = time.monotonic()
        self.body_bytes = 0
        self.asked: float | None = None
        self.first: float | None = None
        self.sent = self.received
        """When the last byte so far was sent."""
        self.prompt: list[int] = []
        self.output: list[int] = []
        self.cached_tokens: int | None = None

    def record(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "body_bytes": self.body_bytes,
            "received": self.received,
            "asked": self.asked,
            "first": self.first,
            "sent": self.sent,
            "prompt": _hash(self.prompt),
            "prompt_tokens": len(self.prompt),
            "output": _hash(self.output),
            "output_tokens": len(self.output),
            "cached_tokens": self.cached_tokens,
        }


class Tap:
    """ASGI middleware."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self._seen: deque[Seen] = deque(maxlen=KEPT)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)  # type: ignore[no-any-return]
        if scope["path"] == SEEN:
            return await self._tell(send)
        if scope["method"] != "POST":
            return await self._app(scope, receive, send)  # type: ignore[no-any-return]
        _watch(scope["app"].state.engine_client)
        seen = Seen(scope["path"])
        self._seen.append(seen)

        async def received() -> Message:
            message = await receive()
            seen.body_bytes += len(message.get("body", b""))
            return message

        async def sent(message: Message) -> None:
            seen.sent = time.monotonic()
            await send(message)

        token = _CURRENT.set(seen)
        try:
            await self._app(scope, received, sent)
        finally:
            _CURRENT.reset(token)
        return None

    async def _tell(self, send: Send) -> None:
        seen = [self._seen.popleft().record() for _ in range(len(self._seen))]
        await answer(send, {"pid": os.getpid(), "seen": seen})


async def answer(send: Send, content: Any) -> None:
    """200, with `content` as JSON."""
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _watch(engine_client: Any) -> None:
    # On the instance, so that whoever looks it up later gets it: vLLM's own routes and the plugin's.
    if "generate" in vars(engine_client):
        return
    stock = engine_client.generate

    def generate(*args: Any, **named: Any) -> AsyncIterator[Any]:
        seen = _CURRENT.get()
        if seen is None:
            return stock(*args, **named)  # type: ignore[no-any-return]
        seen.asked = time.monotonic()
        return _observed(seen, stock(*args, **named))

    engine_client.generate = generate


async def _observed(seen: Seen, outputs: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for output in outputs:
        if seen.first is None:
            seen.first = time.monotonic()
            seen.prompt = output.prompt_token_ids or []
        seen.cached_tokens = output.num_cached_tokens
        seen.output.extend(output.outputs[0].token_ids)
        yield output


def _hash(ids: list[int]) -> str:
    return xxhash.xxh3_128_hexdigest(np.asarray(ids, dtype="<i4").data)
