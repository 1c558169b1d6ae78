"""Over real sockets: which connection a turn takes, and what becomes of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec
import pytest

from app.conversation.engine import Margin
from app.engine.worker import VllmWorker
from tests.e2e.stack import serving
from tests.unit.engine.test_worker import CHECKPOINT, GENERATION, RECEIPT

CHUNK = b'data: {"choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]}\n\n'
MARGIN = Margin(CHECKPOINT, (), (), 60)
END = b"event: prefix\ndata: %b\n\ndata: [DONE]\n\n" % msgspec.json.encode(RECEIPT)


class Plugin:
    """Streams an answer chunk by chunk, as an ASGI application; notes who asked."""

    def __init__(self) -> None:
        self.clients: list[tuple[str, int]] = []

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.clients.append(scope["client"])
        assert (await receive())["type"] == "http.request"
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for body in (CHUNK, END):
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await asyncio.sleep(0.01)
        await send({"type": "http.response.body"})


@asynccontextmanager
async def worker_at(url: str) -> AsyncIterator[VllmWorker]:
    limits = httpx.Limits(keepalive_expiry=None)
    async with httpx.AsyncClient(trust_env=False, limits=limits) as http:
        yield VllmWorker(url, None, http)


async def test_turns_after_one_another_share_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.engine.answer._END_PATIENCE_S", 60.0)
    plugin = Plugin()
    with serving(plugin) as url:
        async with worker_at(url) as worker:
            for _ in range(3):
                async with worker.answer(GENERATION, MARGIN) as answer:
                    assert [delta.text async for delta in answer.deltas()] == ["hi"]
    assert len(plugin.clients) == 3
    assert len(set(plugin.clients)) == 1


async def test_a_turn_that_is_left_gives_up_its_connection() -> None:
    """That is how vLLM learns that nobody waits."""
    plugin = Plugin()
    with serving(plugin) as url:
        async with worker_at(url) as worker:
            for _ in range(2):
                async with worker.answer(GENERATION, MARGIN) as answer:
                    await anext(aiter(answer.deltas()))
    assert len(set(plugin.clients)) == 2


async def test_a_connection_that_closes_just_then_costs_no_turn() -> None:
    asked = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        if len(asked) > 1:
            head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: %d\r\n\r\n"
            writer.write(head % len(CHUNK + END) + CHUNK + END)
            await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with worker_at(url) as worker, worker.answer(GENERATION, MARGIN) as answer:
            assert [delta.text async for delta in answer.deltas()] == ["hi"]
    assert len(asked) == 2
