"""Stands around the service and keeps each answer as it was written, so that it can be checked."""

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from openai.types import Model
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tests import contract
from tests.contract.strict import adapter, check

_model = adapter(Model)


@dataclass
class Exchange:
    """A request and what was written in answer to it."""

    method: str
    path: str
    request: bytearray = field(default_factory=bytearray)
    status: int = 0
    kind: str = ""
    writes: list[bytes] = field(default_factory=list)
    whole: bool = False
    """The answer was written to its end; the client did not hang up before."""
    over: bool = False

    @property
    def body(self) -> bytes:
        return b"".join(self.writes)

    def asked(self) -> dict[str, Any]:
        """The request's body."""
        body: dict[str, Any] = json.loads(self.request)
        return body

    def events(self) -> list[dict[str, Any]]:
        """A write is whole events; what begins with a colon is a comment that keeps the connection alive."""
        written = (write for write in self.writes if write and not write.startswith(b":"))
        return [_event_of(frame) for write in written for frame in re.split(rb"(?<=\n\n)(?=.)", write)]

    def check(self) -> None:
        """The answer is what the SDK expects of this route."""
        try:
            if self.kind.startswith("text/event-stream"):
                contract.check_stream(self.events(), cut=not self.whole)
            elif self.whole:
                self._check_json()
        except AssertionError as exc:
            asked = f"{self.method} {self.path} {bytes(self.request[:2000])!r}"
            raise AssertionError(
                f"{exc}\nThe request was: {asked}\nThe answer: {self.body[:6000]!r}"
            ) from None

    def _check_json(self) -> None:
        assert self.kind == "application/json", f"{self.status} {self.kind}"
        body = json.loads(self.body)
        if self.status != 200:
            assert 400 <= self.status < 500, f"a real client's request got a {self.status}"
            contract.check_error(body)
            return
        for method, path, checker in _ROUTES:
            if re.fullmatch(method, self.method) and re.fullmatch(path, self.path):
                return checker(body)
        raise AssertionError("no check is known for this route")


def _event_of(write: bytes) -> dict[str, Any]:
    frame = re.fullmatch(rb"event: ([a-z_.]+)\ndata: ([^\n]+)\n\n", write)
    assert frame, f"this is not one event: {write!r:.300}"
    name, data = frame.groups()
    event: dict[str, Any] = json.loads(data)
    assert event["type"] == name.decode(), f"the event {name!r} says that it is {event['type']}"
    return event


def _check_models(body: dict[str, Any]) -> None:
    assert body["object"] == "list"
    for model in body["data"]:
        check(_model, model, "the model")


_ROUTES: list[tuple[str, str, Callable[[dict[str, Any]], None]]] = [
    ("POST", r"/v1/responses(/resp_\w+/cancel)?", contract.check_response),
    ("POST", r"/v1/responses/input_tokens", contract.check_token_count),
    ("GET", r"/v1/responses", contract.check_response_list),
    ("GET", r"/v1/responses/resp_\w+/input_items", contract.check_item_list),
    ("GET", r"/v1/responses/resp_\w+", contract.check_response),
    ("DELETE", r"/v1/responses/resp_\w+", contract.check_deleted),
    ("GET", r"/v1/models", _check_models),
    ("POST", r"/v1/conversations(/conv_\w+)?", contract.check_conversation),
    ("GET", r"/v1/conversations/conv_\w+", contract.check_conversation),
    ("DELETE", r"/v1/conversations/conv_\w+", contract.check_conversation_deleted),
    ("(GET|POST)", r"/v1/conversations/conv_\w+/items", contract.check_conversation_items),
    ("GET", r"/v1/conversations/conv_\w+/items/.+", contract.check_conversation_item),
    ("DELETE", r"/v1/conversations/conv_\w+/items/.+", contract.check_conversation),
]


class Recording:
    """ASGI middleware. `exchanges` holds what was asked since it was last cleared."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.exchanges: list[Exchange] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        exchange = Exchange(scope["method"], scope["path"])
        self.exchanges.append(exchange)

        async def receiving() -> Message:
            message = await receive()
            exchange.request += message.get("body", b"")
            return message

        async def sending(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                exchange.status = message["status"]
                headers = {name.lower(): value for name, value in message["headers"]}
                exchange.kind = headers.get(b"content-type", b"").decode()
            else:
                exchange.writes.append(message.get("body", b""))
                exchange.whole = not message.get("more_body", False)

        try:
            await self._app(scope, receiving, sending)
        finally:
            exchange.over = True

    def check(self, patience_s: float = 60.0) -> None:
        """Every answer since the last clearing; waits for those that are still being written."""
        deadline = time.monotonic() + patience_s
        while not all(exchange.over for exchange in self.exchanges):
            assert time.monotonic() < deadline, "the service is still answering"
            time.sleep(0.02)
        assert self.exchanges, "nothing was asked of the service"
        for exchange in self.exchanges:
            exchange.check()
