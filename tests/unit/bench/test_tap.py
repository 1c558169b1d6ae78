"""What the tap sees of requests to an engine, through a real ASGI application."""

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from bench.tap import KEPT, SEEN, Tap


class Engine:
    """Answers two outputs to any prompt, as vLLM's engine client does."""

    async def generate(self, prompt: list[int]) -> AsyncIterator[Any]:
        for token in (7, 8):
            output = SimpleNamespace(token_ids=[token])
            yield SimpleNamespace(prompt_token_ids=prompt, num_cached_tokens=2, outputs=[output])


@pytest.fixture
def client() -> httpx.AsyncClient:
    app = FastAPI()
    app.state.engine_client = Engine()

    @app.post("/ask")
    async def ask(request: Request) -> StreamingResponse:
        prompt = (await request.json())["prompt"]

        async def answer() -> AsyncIterator[str]:
            async for output in app.state.engine_client.generate(prompt):
                yield f"{output.outputs[0].token_ids}"

        return StreamingResponse(answer())

    @app.post("/other")
    async def other() -> None:
        return None

    app.add_middleware(Tap)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://tap")


async def test_it_sees_the_ids_of_prompt_and_answer(client: httpx.AsyncClient) -> None:
    assert (await client.post("/ask", json={"prompt": [1, 2, 3]})).text == "[7][8]"
    await client.post("/ask", json={"prompt": [1, 2, 3]})
    await client.post("/ask", json={"prompt": [1, 2, 4]})
    one, same, another = (await client.get(SEEN)).json()["seen"]
    assert (one["prompt_tokens"], one["output_tokens"], one["cached_tokens"]) == (3, 2, 2)
    assert one["prompt"] == same["prompt"] != another["prompt"]
    assert one["output"] == another["output"]
    assert one["body_bytes"] == len('{"prompt":[1,2,3]}')


async def test_its_times_are_in_order(client: httpx.AsyncClient) -> None:
    await client.post("/ask", json={"prompt": [1]})
    (seen,) = (await client.get(SEEN)).json()["seen"]
    assert seen["received"] <= seen["asked"] <= seen["first"] <= seen["sent"]


async def test_what_was_told_is_told_once(client: httpx.AsyncClient) -> None:
    await client.post("/ask", json={"prompt": [1]})
    assert len((await client.get(SEEN)).json()["seen"]) == 1
    assert (await client.get(SEEN)).json()["seen"] == []


async def test_only_the_last_requests_are_kept(client: httpx.AsyncClient) -> None:
    for number in range(KEPT + 2):
        await client.post("/ask", json={"prompt": [0] * number})
    seen = (await client.get(SEEN)).json()["seen"]
    assert [one["prompt_tokens"] for one in seen] == list(range(2, KEPT + 2))


async def test_a_request_that_asks_no_engine_has_no_prompt(client: httpx.AsyncClient) -> None:
    await client.post("/other")
    (seen,) = (await client.get(SEEN)).json()["seen"]
    assert (seen["asked"], seen["prompt_tokens"]) == (None, 0)
