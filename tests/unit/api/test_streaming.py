"""When an answer has gone out: token ids are kept after its last byte, whether or not it is a stream."""

import asyncio
import contextlib
import json
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.requests import ClientDisconnect

from app.api.routes import Services, router
from app.conversation.records import DEFAULT_TENANT, ResponseId, TenantId
from app.conversation.responses import Responses
from app.conversation.sealing import Sealing
from app.conversation.seeds import Seeds
from app.store.memory import MemoryResponseStore
from tests.unit.conversation.test_turns import Chat


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
    app.state.services = Services(
        store, chat.worker, chat.turns, Responses(store, chat.worker, Sealing(store)), 60
    )
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
