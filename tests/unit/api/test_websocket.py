"""The WebSocket on a scripted engine: frames, failures, slow clients, goodbyes, who may connect."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from openai.types.responses import ResponsesServerEvent
from starlette.datastructures import Headers

from app.api.lanes import MAX_NAMED, MAX_WAITING
from app.api.websocket import is_own_origin, router
from app.conversation.engine import Delta
from app.conversation.records import DEFAULT_TENANT, Checkpoint, ResponseId
from app.conversation.seeds import Seeds
from app.errors import EngineError
from app.store.memory import MemoryResponseStore
from tests.contract.answers import OURS
from tests.contract.strict import adapter, check
from tests.unit.conversation.test_turns import CHECKPOINT, Chat

ENDS = {"response.completed", "response.incomplete", "response.failed", "error"}
SERVER_EVENT = adapter(ResponsesServerEvent, **OURS)
Json = dict[str, Any]


class Service:
    """The route over a scripted worker."""

    def __init__(self, store: MemoryResponseStore | None = None, seeds: Seeds | None = None) -> None:
        self.chat = Chat(store, seeds)
        self.worker = self.chat.worker
        self.forgotten: list[Checkpoint] = []
        self.app = FastAPI()
        self.app.include_router(router)
        self.app.state.services = SimpleNamespace(
            store=self.chat.store,
            engine=self,
            turns=self.chat.turns,
            contexts=None,
            prefix_ttl_seconds=60,
        )

    async def forget(self, checkpoints: Sequence[Checkpoint]) -> None:
        self.forgotten += checkpoints


class Socket:
    """What an ASGI server makes of a WebSocket. writable: cleared, the client reads no more."""

    def __init__(self, app: FastAPI) -> None:
        self.writable = asyncio.Event()
        self.writable.set()
        self.sent: list[Json] = []
        self._from_client: asyncio.Queue[Json] = asyncio.Queue()
        self._frames: asyncio.Queue[Json] = asyncio.Queue()
        self._gone = False
        self._from_client.put_nowait({"type": "websocket.connect"})
        scope = {"type": "websocket", "path": "/v1/responses", "headers": [], "query_string": b""}
        self.served = asyncio.create_task(app({**scope, "subprotocols": []}, self._receive, self._send))

    def create(self, **fields: Any) -> None:
        self.say({"type": "response.create", "input": "q", **fields})

    def say(self, message: Any) -> None:
        self._from_client.put_nowait({"type": "websocket.receive", "text": json.dumps(message)})

    async def frame(self) -> Json:
        async with asyncio.timeout(60):
            return await self._frames.get()

    async def end(self) -> Json:
        """The frame that ends the response that runs."""
        frame = await self.frame()
        while frame["type"] not in ENDS:
            frame = await self.frame()
        return frame

    async def leave(self, code: int) -> None:
        self._gone = True
        self.writable.set()
        self._from_client.put_nowait({"type": "websocket.disconnect", "code": code})
        async with asyncio.timeout(60):
            await self.served

    async def _receive(self) -> Json:
        return await self._from_client.get()

    async def _send(self, message: Any) -> None:
        await asyncio.sleep(0)  # As with a server: others may run before the message is out.
        await self.writable.wait()
        if self._gone:
            raise OSError
        if message["type"] == "websocket.send":
            frame = json.loads(message["text"])
            check(SERVER_EVENT, frame, f"the event {frame['type']}")
            self.sent.append(frame)
            self._frames.put_nowait(frame)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
async def opened(service: Service) -> AsyncIterator[Socket]:
    socket = Socket(service.app)
    yield socket
    if not socket.served.done():
        await socket.leave(1000)


async def test_every_event_of_a_lane_says_so(opened: Socket) -> None:
    opened.create(stream_id="a")
    await opened.end()
    assert {frame["stream_id"] for frame in opened.sent} == {"a"}
    opened.create()
    assert "stream_id" not in await opened.end()


@pytest.mark.parametrize("stored", [True, False])
async def test_token_ids_are_kept_of_what_is_stored(stored: bool) -> None:
    store = MemoryResponseStore()
    async with Seeds(store) as seeds:
        opened = Socket(Service(store, seeds).app)
        opened.create(store=stored)
        response = (await opened.end())["response"]
        await opened.leave(1000)
        await seeds.written()
    assert len(await store.seeds(DEFAULT_TENANT, response["id"])) == stored


async def test_a_turn_that_fails_leaves_its_parent_and_the_socket(service: Service, opened: Socket) -> None:
    """OpenAI drops the parent from the socket then; here it can still be continued, as over HTTP."""
    opened.create(store=False)
    first = (await opened.end())["response"]["id"]
    service.worker.breaks_off = True
    opened.create(store=False, previous_response_id=first)
    failed = await opened.end()
    assert (failed["type"], failed["response"]["error"]["code"]) == ("response.failed", "server_error")
    service.worker.breaks_off = False
    opened.create(store=False, previous_response_id=failed["response"]["id"])
    assert (await opened.end())["error"]["code"] == "previous_response_not_found"
    opened.create(store=False, previous_response_id=first)
    assert (await opened.end())["response"]["caching"]["path"] == "hit"


async def test_the_engines_own_errors_have_their_status(service: Service, opened: Socket) -> None:
    service.worker.misses = [EngineError("vLLM answered with an error.")]
    opened.create(stream_id="a")
    assert await opened.end() == {
        "type": "error",
        "status": 502,
        "stream_id": "a",
        "error": {
            "type": "server_error",
            "code": "engine_error",
            "message": "vLLM answered with an error.",
            "param": None,
        },
    }
    opened.create(stream_id="a")
    assert (await opened.end())["type"] == "response.completed"


async def test_a_bug_at_the_start_of_a_turn_is_told(service: Service, opened: Socket) -> None:
    service.worker.misses = [ZeroDivisionError()]
    opened.create()
    error = await opened.end()
    assert (error["status"], error["error"]["code"]) == (500, "internal_error")
    opened.create()
    assert (await opened.end())["type"] == "response.completed"


async def test_a_bug_in_the_middle_of_a_turn_is_told(service: Service, opened: Socket) -> None:
    service.worker.deltas = (Delta(text="a"), None)  # type: ignore[assignment]
    opened.create()
    error = await opened.end()
    assert (error["status"], error["error"]["code"]) == (500, "internal_error")
    assert [frame["sequence_number"] for frame in opened.sent] == list(range(len(opened.sent)))
    service.worker.deltas = ()
    opened.create()
    assert (await opened.end())["type"] == "response.completed"


async def test_for_a_slow_client_nothing_piles_up(service: Service, opened: Socket) -> None:
    asked = 0

    def deltas() -> Any:
        nonlocal asked
        for _ in range(1000):
            asked += 1
            yield Delta(text="x")
        yield Delta(finish_reason="stop")

    service.worker.deltas = deltas()
    opened.create()
    while (await opened.frame())["type"] != "response.output_text.delta":
        pass
    opened.writable.clear()
    for _ in range(100):
        await asyncio.sleep(0)
    assert asked < 50
    opened.writable.set()
    assert (await opened.end())["response"]["output"][0]["content"][0]["text"] == "x" * 1000


@pytest.mark.parametrize("reads", [True, False])
async def test_a_client_that_leaves_aborts_what_runs(service: Service, opened: Socket, reads: bool) -> None:
    service.worker.deltas = (Delta(text="x"),) * 100_000
    opened.create(stream_id="a")
    opened.create(stream_id="b")
    opened.create(stream_id="b")
    ids = [frame["response"]["id"] for frame in (await opened.frame(), await opened.frame())]
    if not reads:
        opened.writable.clear()
    assert service.worker.running == 2
    await opened.leave(1006)
    assert service.worker.running == 0
    assert len(service.worker.prompts) == 2
    for response_id in ids:
        assert await service.chat.store.get(DEFAULT_TENANT, ResponseId(response_id)) is None


@pytest.mark.parametrize(("code", "forgotten"), [(1000, [CHECKPOINT]), (1001, []), (1006, []), (1012, [])])
async def test_goodbye_drops_what_vllm_holds_of_unstored_turns(
    service: Service, opened: Socket, code: int, forgotten: list[Checkpoint]
) -> None:
    """Who is cut off comes back and sends all: it is found by its content."""
    opened.create(store=False)
    await opened.end()
    opened.create()
    await opened.end()
    await opened.leave(code)
    assert service.forgotten == forgotten


async def test_more_lanes_than_there_may_be(service: Service, opened: Socket) -> None:
    for number in range(MAX_NAMED):
        opened.create(stream_id=f"s{number}")
        await opened.end()
    opened.create(stream_id="more")
    error = await opened.end()
    assert (error["status"], error["stream_id"]) == (400, "more")
    assert error["error"]["code"] == "websocket_stream_limit_reached"
    for lane in ({"stream_id": "s0"}, {}):
        opened.create(**lane)
        assert (await opened.end())["type"] == "response.completed"


async def test_more_waiting_than_there_may_be(service: Service, opened: Socket) -> None:
    opened.writable.clear()
    for _ in range(MAX_WAITING + 3):
        opened.create()
    for _ in range(100):
        await asyncio.sleep(0)
    opened.writable.set()
    ends = [await opened.end() for _ in range(MAX_WAITING + 3)]
    refused = [end for end in ends if end["type"] == "error"]
    assert {(end["status"], end["error"]["code"]) for end in refused} == {(429, "rate_limit_exceeded")}
    assert 1 <= len(refused) <= 3


@pytest.mark.parametrize(
    ("origins", "own"),
    [
        ([], True),
        (["http://here:8080"], True),
        (["https://HERE:8080"], True),
        (["http://here"], False),
        (["http://there:8080"], False),
        (["http://here:8080.there"], False),
        (["http://here:8080", "http://there"], False),
        (["null"], False),
        ([""], False),
        (["here:8080"], False),
    ],
)
def test_a_page_may_connect_to_its_own_server(origins: list[str], own: bool) -> None:
    raw = [(b"host", b"here:8080"), *((b"origin", origin.encode()) for origin in origins)]
    assert is_own_origin(Headers(raw=raw)) == own


@pytest.mark.parametrize(
    ("host", "origin", "own"),
    [
        ("here", "http://here:80", True),
        ("here:443", "https://here", True),
        ("here:80", "https://here", False),
        ("", "http://", False),
        ("[::1]:8080", "http://[::1]:8080", True),
    ],
)
def test_the_port_may_be_left_out_where_it_is_the_schemes(host: str, origin: str, own: bool) -> None:
    assert is_own_origin(Headers({"host": host, "origin": origin})) == own
