"""What survives: vLLM killed between turns, the service killed in the middle of one."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import httpx
import pytest
from openai import InternalServerError, OpenAI
from sqlalchemy import text

from app.conversation.records import DEFAULT_TENANT, ResponseId
from app.local.vllm import LocalVllm
from app.store.database import Database
from app.store.responses import PostgresResponseStore
from tests.e2e.service import free_port
from tests.e2e.stack import SECRET, ask, caching, path, sdk

Seeds = Callable[[str], Awaitable[list[bytes]]]


@pytest.fixture
def seeds(database: Database) -> Seeds:
    """Reads the token ids that Postgres holds of a response and those before it."""

    async def read(response_id: str) -> list[bytes]:
        return await PostgresResponseStore(database).seeds(DEFAULT_TENANT, ResponseId(response_id))

    return read


async def all_written(seeds: Seeds, response_id: str, count: int) -> None:
    """They are written after the answer."""
    async with asyncio.timeout(30):
        while len(await seeds(response_id)) < count:  # noqa: ASYNC110 - the service has its own loop
            await asyncio.sleep(0.05)


@pytest.mark.timeout(600)  # It starts vLLM, and once more.
async def test_a_conversation_goes_on_after_vllm_was_killed(
    client_for: Callable[..., OpenAI], vllm: LocalVllm, seeds: Seeds, checkpoints: Any
) -> None:
    client = client_for(vllm.url)
    without = client_for(vllm.url, keep_token_ids=False)
    first = ask(client, "My name is Ada.")
    second = ask(client, "What is my name?", first.id)
    assert path(second) == ("hit", None)
    expected = ask(client, "Say it again.", second.id)
    unkept = ask(without, "My name is Bob.")
    await all_written(seeds, expected.id, 3)

    vllm.kill()
    with pytest.raises(InternalServerError) as caught:
        ask(client, "Say it again.", second.id)
    assert (caught.value.status_code, caught.value.code) == (503, "engine_unavailable")
    vllm.start()
    vllm.wait_ready(timeout_s=280)

    third = ask(client, "Say it again.", second.id)
    assert path(third) == ("reseed", "prefix_miss")
    assert third.output_text == expected.output_text
    # The very ids that were there before, those that the model sampled included, and no more tokenized.
    assert caching(third)["reused_tokens"] == caching(expected)["reused_tokens"] > 0
    assert (await checkpoints(third.id)).prefix_hash == (await checkpoints(expected.id)).prefix_hash
    assert path(ask(client, "And again.", third.id)) == ("hit", None)

    assert await seeds(unkept.id) == []
    again = ask(without, "What is my name?", unkept.id)
    assert path(again) == ("reseed", "prefix_miss")
    assert caching(again)["reused_tokens"] == 0


class Service:
    """The service as a process of its own, which can be killed."""

    def __init__(self, database_url: str, worker_url: str) -> None:
        self.port = free_port()
        self._env = {
            **os.environ,
            "DATABASE_URL": database_url,
            "WORKER_URLS": worker_url,
            "MARGINALIA_SECRET": SECRET,
            "PORT": str(self.port),
        }
        self.process = self._start()
        self.client = sdk(f"http://127.0.0.1:{self.port}")

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([sys.executable, "-m", "app.cli", "serve"], env=self._env)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/ready").status_code == 200:
                    return process
            except httpx.HTTPError:
                time.sleep(0.1)
        process.kill()
        raise AssertionError("the service did not get ready")

    def kill_and_restart(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.process = self._start()


@pytest.fixture
def service(database: Database, vllm: LocalVllm) -> Iterator[Service]:
    service = Service(database.engine.url.render_as_string(hide_password=False), vllm.url)
    with service.client:
        yield service
    service.process.terminate()
    service.process.wait(30)


async def test_a_service_killed_in_mid_stream_leaves_no_half_turn(
    service: Service, database: Database
) -> None:
    first = ask(service.client, "My name is Ada.")
    stream = service.client.responses.create(
        input="Count to a thousand.",
        previous_response_id=first.id,
        stream=True,
        max_output_tokens=4000,
        extra_body={"ignore_eos": True},
    )
    started = next(iter(stream))
    for _ in range(5):
        next(iter(stream))
    service.kill_and_restart()
    stream.close()

    async with database.reading() as connection:
        lone_checkpoints = await connection.execute(
            text(
                "SELECT count(*) FROM checkpoints c JOIN responses r ON r.id = c.response_id "
                "WHERE r.root_id = :root AND NOT EXISTS "
                "(SELECT FROM items i WHERE i.response_id = c.response_id AND i.direction = 'output')"
            ),
            {"root": first.id},
        )
        half_turns = await connection.execute(
            text("SELECT count(*) FROM responses WHERE id = :id"),
            {"id": started.response.id},  # type: ignore[union-attr]
        )
        assert (lone_checkpoints.scalar_one(), half_turns.scalar_one()) == (0, 0)
    assert path(ask(service.client, "What is my name?", first.id)) == ("hit", None)
