"""What the end-to-end tests run on: real vLLM servers, a recording proxy, the service on real Postgres."""

import asyncio
import os
import random
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI
from openai import OpenAI
from openai.types.responses import Response
from starlette.requests import Request
from starlette.responses import StreamingResponse

from app.local.listener import SERVING
from app.local.vllm import LocalVllm

SECRET = "for-tests-only"

_choices = random.Random(
    time.time_ns() if os.environ.keys() & {"TEST_VLLM_URL", "TEST_SCRIPTED_VLLM_URL"} else 0
)


def unique() -> str:
    """What no other test has said: what is known by content would be a hit.

    Digits, because each is always a token of its own: other words a model may repeat in other tokens than
    those of a full render, and rightly goes on from them. The same in each run, and so are the answers.
    """
    return f"{_choices.randrange(10**9):09}"


@contextmanager
def serving(app: Any) -> Iterator[str]:
    """Serve an ASGI app on a free port from a thread; yields its URL."""
    sock = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1, **SERVING)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[sock])), daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server died at its start"
        time.sleep(0.02)
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)


@contextmanager
def running(vllm: LocalVllm, timeout_s: float) -> Iterator[LocalVllm]:
    """A vLLM server from when it is ready; it is stopped at the end, also where it never was."""
    try:
        vllm.start()
        vllm.wait_ready(timeout_s=timeout_s)
        yield vllm
    finally:
        vllm.stop()


@dataclass
class Proxy:
    """In front of a vLLM server."""

    target: str

    def asked(self, path: str, body: bytes) -> None:
        """What is posted."""

    async def relayed(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        """What comes back, part by part."""
        try:
            async for part in answer.aiter_raw():
                yield part
        finally:
            await answer.aclose()

    def app(self) -> FastAPI:
        # vLLM closes an idle connection after 5 s, which is httpx's own limit: a request would be sent then.
        client = httpx.AsyncClient(timeout=300, limits=httpx.Limits(keepalive_expiry=2))

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            async with client:
                yield

        app = FastAPI(lifespan=lifespan)

        @app.api_route("/{path:path}", methods=["GET", "POST", "DELETE"])
        async def forward(path: str, request: Request) -> StreamingResponse:
            body = await request.body()
            if request.method == "POST":
                self.asked(f"/{path}", body)
            headers = {k: v for k, v in request.headers.items() if k not in ("host", "content-length")}
            sent = client.build_request(
                request.method,
                f"{self.target}/{path}",
                content=body,
                headers=headers,
                params=request.query_params,
            )
            answer = await client.send(sent, stream=True)
            parts = self.relayed(answer)
            return StreamingResponse(parts, answer.status_code, headers=_headers(answer), media_type=None)

        return app


@dataclass
class Recorder(Proxy):
    """Keeps what is sent to vLLM. While `flowing` is not set, streams come no further."""

    bodies: list[tuple[str, bytes]] = field(default_factory=list)
    flowing: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.flowing.set()

    def sent(self, path: str) -> list[bytes]:
        return [body for at, body in self.bodies if at == path]

    def asked(self, path: str, body: bytes) -> None:
        self.bodies.append((path, body))

    async def relayed(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        streamed = "event-stream" in answer.headers.get("content-type", "")
        async for part in super().relayed(answer):
            yield part
            while streamed and not self.flowing.is_set():  # noqa: ASYNC110 - a test is another thread
                await asyncio.sleep(0.02)


def _headers(answer: httpx.Response) -> dict[str, str]:
    hop_by_hop = {"content-length", "transfer-encoding", "connection", "date", "server"}
    return {k: v for k, v in answer.headers.items() if k not in hop_by_hop}


def sdk(service_url: str) -> OpenAI:
    """The OpenAI SDK's client; a context that closes its connections."""
    return OpenAI(base_url=f"{service_url}/v1", api_key="unused", max_retries=0, timeout=120)


def rendered_ids(vllm_url: str, messages: list[dict[str, Any]], **fields: Any) -> list[int]:
    """The oracle: token ids of a full render by vLLM's own renderer."""
    answer = httpx.post(f"{vllm_url}/tokenize", json={"messages": messages, **fields}, timeout=60)
    answer.raise_for_status()
    ids: list[int] = answer.json()["tokens"]
    return ids


def running_requests(vllm_url: str) -> float:
    """How many requests vLLM is working on, from its own metrics."""
    metrics = httpx.get(f"{vllm_url}/metrics", timeout=60).text
    values = [
        line.rsplit(" ", 1)[1]
        for line in metrics.splitlines()
        if line.startswith("vllm:num_requests_running")
    ]
    return sum(map(float, values))


def wait_until_idle(vllm_url: str, patience_s: float = 60.0) -> None:
    """Until vLLM works on no request; fails where it goes on."""
    deadline = time.monotonic() + patience_s
    while running := running_requests(vllm_url):
        assert time.monotonic() < deadline, f"vLLM still works on {running} requests"
        time.sleep(0.1)


ENDED = ("completed", "incomplete", "failed", "cancelled")


def polled(client: OpenAI, response_id: str, within_s: float = 60.0) -> Response:
    """A response in the background, once it has ended."""
    deadline = time.monotonic() + within_s
    while (response := client.responses.retrieve(response_id)).status not in ENDED:
        assert time.monotonic() < deadline, response
        time.sleep(0.05)
    return response


def ask(client: OpenAI, question: Any, previous: str | None = None, **fields: Any) -> Response:
    """One greedy streamed turn; returns the final response."""
    fields = {"temperature": 0, "max_output_tokens": 24, **fields}
    events = list(
        client.responses.create(input=question, previous_response_id=previous, stream=True, **fields)
    )
    assert [e.sequence_number for e in events] == list(range(len(events)))
    final = events[-1]
    assert final.type in ("response.completed", "response.incomplete"), final
    return final.response  # type: ignore[no-any-return]


def chat(client: OpenAI, questions: list[str], **fields: Any) -> list[Response]:
    answers: list[Response] = []
    for question in questions:
        answers.append(ask(client, question, answers[-1].id if answers else None, **fields))
    return answers


def caching(response: Response) -> dict[str, Any]:
    """What the turn did with its prefix, as the response tells it."""
    return response.caching  # type: ignore[attr-defined, no-any-return]


def path(response: Response) -> tuple[str, str | None]:
    return caching(response)["path"], caching(response)["reason"]
