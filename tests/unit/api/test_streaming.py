"""Answers on their way: ids are kept after the last byte; silence, slow clients and bugs in a stream."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest
from fastapi import FastAPI
from starlette.requests import ClientDisconnect

from app.api import streaming as api_streaming
from app.api.routes import router
from app.api.streaming import EventStream
from app.conversation.asking import Asked, Asking
from app.conversation.compacting import Compactor
from app.conversation.engine import Delta, Generation
from app.conversation.plan import Plan
from app.conversation.records import DEFAULT_TENANT, ResponseId, TenantId
from app.conversation.running import RunningTurn
from app.conversation.sealing import Sealing
from app.conversation.seeds import Seeds
from app.errors import EngineError
from app.store.memory import MemoryResponseStore
from tests.unit.api.services import services
from tests.unit.conversation.test_turns import Chat, ScriptedAnswer, request


class Client:
    """Calls the service as an ASGI server does, and hears of what happens in its order.

    leaves_after: hangs up once it was sent this. spec: since ASGI 2.4 a server tells so when it is to send
    more; before, in a message of its own.
    """

    def __init__(
        self, app: FastAPI, happened: list[str], leaves_after: bytes | None = None, spec: str = "2.3"
    ) -> None:
        self._app = app
        self._happened = happened
        self._leaves_after = leaves_after
        self._spec = spec
        self._left = asyncio.Event()

    async def post(self, **body: Any) -> None:
        sent = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]

        async def receive() -> dict[str, Any]:
            if sent:
                return sent.pop()
            await self._left.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            # As a server does: others may run before the message is out.
            for _ in range(20):
                await asyncio.sleep(0)
            if self._leaves_after and self._leaves_after in message.get("body", b""):
                if self._spec >= "2.4":
                    raise OSError
                self._left.set()
                await asyncio.sleep(3600)  # Its connection takes no more.
            if message["type"] == "http.response.body" and not message.get("more_body"):
                self._happened.append("answered")

        scope = {
            "type": "http",
            "asgi": {"spec_version": self._spec},
            "method": "POST",
            "path": "/v1/responses",
            "headers": [(b"content-type", b"application/json")],
            "query_string": b"",
        }
        with contextlib.suppress(ClientDisconnect):
            await self._app(scope, receive, send)  # type: ignore[arg-type]


class Store(MemoryResponseStore):
    def __init__(self, happened: list[str]) -> None:
        super().__init__()
        self._happened = happened

    async def save_seed(self, tenant: TenantId, response_id: ResponseId, seed: bytes) -> None:
        self._happened.append("kept")
        await super().save_seed(tenant, response_id, seed)
        assert await self.seeds(DEFAULT_TENANT, response_id) == [seed]


def service(store: Store, seeds: Seeds) -> FastAPI:
    chat = Chat(store, seeds)
    app = FastAPI()
    app.include_router(router)
    app.state.services = services(chat)
    return app


@pytest.mark.parametrize("stream", [True, False])
async def test_token_ids_are_kept_after_the_answer_has_gone_out(stream: bool) -> None:
    happened: list[str] = []
    store = Store(happened)
    async with Seeds(store) as seeds:
        await Client(service(store, seeds), happened).post(input="q", stream=stream)
        await seeds.written()
    assert (happened, seeds.dropped) == (["answered", "kept"], 0)


@pytest.mark.parametrize("spec", ["2.3", "2.4"])
async def test_a_client_that_leaves_with_its_answer_has_them_kept_too(spec: str) -> None:
    happened: list[str] = []
    store = Store(happened)
    async with Seeds(store) as seeds:
        client = Client(service(store, seeds), happened, leaves_after=b"response.completed", spec=spec)
        await client.post(input="q", stream=True)
        await seeds.written()
    assert happened == ["kept"]


async def test_a_client_that_leaves_before_keeps_nothing() -> None:
    happened: list[str] = []
    store = Store(happened)
    async with Seeds(store) as seeds:
        client = Client(service(store, seeds), happened, leaves_after=b"response.created")
        await client.post(input="q", stream=True)
        await seeds.written()
    assert happened == []


class Talking(ScriptedAnswer):
    """Says one word after another, as long as somebody asks; `silent_s` before each."""

    said = 0
    silent_s = 0.0
    fails_after: int | None = None

    async def deltas(self) -> AsyncIterator[Delta]:
        for _ in range(500):
            await asyncio.sleep(self.silent_s)
            if self.said == self.fails_after:
                raise RuntimeError("a bug")
            self.said += 1
            yield Delta(text="word ")
        yield Delta(finish_reason="stop")


def talking(**settings: Any) -> tuple[Talking, EventStream, MemoryResponseStore]:
    chat = Chat()
    answer = Talking("full", "x", "", None, None, False)
    for name, value in settings.items():
        setattr(answer, name, value)
    asked = Asked(request(), DEFAULT_TENANT, request().input)
    generation = Generation("m", asked.request.options, "ns", "sampled", False)
    sealing = Sealing(chat.store)
    asking = Asking(chat.store, None, chat.worker, asked, generation, Plan(None, "x", keep=True), sealing)
    turn = RunningTurn(
        asked,
        asking,
        answer,
        None,
        Compactor(asking, asked, sealing),
        seeds=None,
        sealer=None,
        save=chat.store.save,
        begun=None,
        stack=contextlib.AsyncExitStack(),
    )
    return answer, EventStream(turn), chat.store


class Reader:
    """Takes what a stream sends, up to `patience` messages; then it reads no more."""

    def __init__(self, patience: int) -> None:
        self.taken: list[bytes] = []
        self.full = asyncio.Event()
        self._patience = patience

    async def send(self, message: Any) -> None:
        if len(self.taken) == self._patience:
            self.full.set()
            await asyncio.sleep(3600)
        self.taken.append(message.get("body", b""))


async def read(stream: EventStream, patience: int) -> list[bytes]:
    reader = Reader(patience)
    streaming = asyncio.create_task(stream.stream_response(reader.send))
    await reader.full.wait()
    for _ in range(100):
        await asyncio.sleep(0)
    streaming.cancel()
    await asyncio.wait({streaming})
    return [body for body in reader.taken if body]


def events_of(sent: list[bytes]) -> list[dict[str, Any]]:
    """Those that come at once are sent at once."""
    frames = [frame for together in sent for frame in together.removesuffix(b"\n\n").split(b"\n\n")]
    return [json.loads(frame.split(b"data: ")[1]) for frame in frames]


async def test_silence_is_filled_with_comments_and_nothing_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_streaming, "KEEP_ALIVE_S", 0.01)
    _, stream, _ = talking(silent_s=0.05)
    sent = await read(stream, 40)
    comments = [frame for frame in sent if frame.startswith(b":")]
    assert len(comments) > 3
    events = events_of([frame for frame in sent if not frame.startswith(b":")])
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    assert b"".join(comments) == b": keep-alive\n\n" * len(comments)


async def test_where_there_is_no_silence_there_are_no_comments() -> None:
    _, stream, _ = talking()
    assert not [frame for frame in await read(stream, 40) if frame.startswith(b":")]


async def test_a_client_that_reads_slowly_slows_the_answer_down() -> None:
    answer, stream, _ = talking()
    assert len(await read(stream, 10)) == 9
    assert 0 < answer.said <= 10


async def test_a_bug_in_mid_stream_is_an_error_event(caplog: pytest.LogCaptureFixture) -> None:
    _, stream, store = talking(fails_after=3)
    sent = [cast(bytes, frame) async for frame in stream.body_iterator]
    events = events_of(sent)
    assert events[-1] == {
        "type": "error",
        "sequence_number": len(events) - 1,
        "code": "server_error",
        "message": "The server had an error.",
        "param": None,
    }
    assert sent[-1].startswith(b"event: error\n")
    assert len(sent) == len(events) - 3, "the two at the start, and the three of the first word"
    assert "a bug" in caplog.text
    assert await store.get(DEFAULT_TENANT, events[0]["response"]["id"]) is None


async def test_without_a_stream_a_failed_turn_is_an_error() -> None:
    chat = Chat()
    chat.worker.breaks_off = True
    app = FastAPI()
    app.include_router(router)
    app.state.services = services(chat)
    with pytest.raises(EngineError, match="broke off"):
        await Client(app, []).post(input="q")
    assert chat.worker.running == 0
