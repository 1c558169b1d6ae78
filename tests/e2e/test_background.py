"""Responses in the background on real vLLM: polled, resumed, cancelled, and through processes that die."""

import asyncio
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import pytest_asyncio
from openai import BadRequestError, OpenAI
from openai.types.responses import Response, ResponseStreamEvent
from sqlalchemy import text

from app.main import create_app
from app.store import migrate
from app.store.database import Database, libpq_parameters
from tests.e2e.service import Service
from tests.e2e.stack import SECRET, Proxy, polled, sdk, serving

LONG: dict[str, Any] = {"input": "Go on.", "background": True, "temperature": 0}
"""The scripted model speaks on until `max_output_tokens`."""


@pytest_asyncio.fixture
async def own(empty_database: Database) -> AsyncIterator[Database]:
    """A database of the test's own: whatever service shares one may take its jobs."""
    await migrate.upgrade(empty_database)
    yield empty_database


@pytest.fixture
def url(own: Database) -> str:
    return own.engine.url.render_as_string(hide_password=False)


@pytest.fixture
def running() -> Iterator[Callable[..., str]]:
    """Keeps what it is given running, until the test ends."""
    with ExitStack() as stack:
        yield stack.enter_context


@pytest.fixture
def start(url: str, scripted_vllm_url: str) -> Iterator[Callable[..., OpenAI]]:
    """A service in this process. `jobs`: how many it makes at once."""
    with ExitStack() as stack:

        def started(jobs: int = 4, worker: str = scripted_vllm_url, stalled_s: int = 60) -> OpenAI:
            app = create_app(
                database_url=url,
                worker_urls=[worker],
                secret=SECRET,
                prefix_ttl_seconds=3600,
                background_concurrency=jobs,
                background_stalled_seconds=stalled_s,
            )
            return stack.enter_context(sdk(stack.enter_context(serving(app))))

        yield started


@pytest.fixture
def spawn(
    url: str, data_dir: Path, scripted_vllm_url: str
) -> Iterator[Callable[..., tuple[Service, OpenAI]]]:
    """A service as a process of its own."""
    with ExitStack() as stack:

        def spawned(
            jobs: int = 4, stalled_s: int = 2, worker: str = scripted_vllm_url
        ) -> tuple[Service, OpenAI]:
            service = Service(
                data_dir,
                DATABASE_URL=url,
                WORKER_URLS=worker,
                MARGINALIA_SECRET=SECRET,
                BACKGROUND_CONCURRENCY=str(jobs),
                BACKGROUND_STALLED_SECONDS=str(stalled_s),
            )
            stack.callback(service.destroy)
            service.wait_ready()
            return service, stack.enter_context(sdk(f"http://127.0.0.1:{service.port}"))

        yield spawned


def read(stream: Any, until: int | None = None) -> list[ResponseStreamEvent]:
    """Events as they come, up to the one of that number."""
    events = []
    for event in stream:
        events.append(event)
        if event.sequence_number == until:
            break
    return events


def read_on(client: OpenAI, response_id: str, events: list[ResponseStreamEvent]) -> list[ResponseStreamEvent]:
    last = events[-1].sequence_number
    return [*events, *client.responses.retrieve(response_id, stream=True, starting_after=last)]


def assert_whole(events: list[ResponseStreamEvent], response: Response) -> None:
    """The events are one answer without gap or repetition, and it is the response's."""
    assert [e.sequence_number for e in events] == list(range(len(events)))
    kinds = [e.type for e in events]
    assert kinds[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert kinds[-1] == f"response.{response.status}"
    assert events[-1].response.to_dict() == response.to_dict()
    added = [e.item.id for e in events if e.type == "response.output_item.added"]
    assert added == [item.id for item in response.output]
    for item in response.output:
        deltas = [e for e in events if e.type.endswith("_text.delta") and e.item_id == item.id]
        assert "".join(e.delta for e in deltas) == item.content[0].text


async def turns_of(database: Database) -> list[tuple[str, int]]:
    """Of each response, how many items it put out."""
    counted = "SELECT r.id, count(i.item_id) FROM responses r LEFT JOIN items i ON i.response_id = r.id "
    grouped = "AND i.direction = 'output' GROUP BY r.id"
    async with database.reading() as connection:
        return [(row[0], row[1]) for row in await connection.execute(text(counted + grouped))]


# Made, polled, continued


def test_it_is_made_while_nobody_waits(start: Callable[..., OpenAI]) -> None:
    client = start()
    made = client.responses.create(**LONG, max_output_tokens=40, metadata={"a": "b"})
    assert (made.status, made.background, made.output, made.usage) == ("queued", True, [], None)
    assert made.caching == {"type": "enabled", "path": None, "reason": None}
    response = polled(client, made.id)
    assert (response.status, response.created_at, response.metadata) == (
        "incomplete",
        made.created_at,
        {"a": "b"},
    )
    assert response.usage.output_tokens == 40
    assert response.caching["path"] is not None
    assert [item.content[0].text for item in client.responses.input_items.list(made.id)] == ["Go on."]
    after = client.responses.create(input="And?", previous_response_id=made.id, max_output_tokens=8)
    assert after.caching["path"] == "hit"
    whole = read(client.responses.retrieve(made.id, stream=True))
    assert_whole(whole, response)
    last = len(whole) - 1
    assert read(client.responses.retrieve(made.id, stream=True, starting_after=last)) == []
    with pytest.raises(BadRequestError, match=f"its last one is {last}") as caught:
        client.responses.retrieve(made.id, stream=True, starting_after=last + 1)
    assert caught.value.param == "starting_after"


def test_a_turn_that_fails_says_why(start: Callable[..., OpenAI]) -> None:
    client = start()
    made = client.responses.create(**LONG, extra_body={"structured_outputs": {"regex": "("}})
    response = polled(client, made.id)
    assert (response.status, response.error.code, response.output) == ("failed", "invalid_prompt", [])
    events = read(client.responses.retrieve(made.id, stream=True))
    assert [e.type for e in events if e.type == "response.failed"] == [events[-1].type]
    assert events[-1].response.to_dict() == response.to_dict()
    with pytest.raises(BadRequestError, match="cannot be continued: it is failed"):
        client.responses.create(input="And?", previous_response_id=made.id)


def test_what_cannot_be_made_is_refused_at_once(start: Callable[..., OpenAI]) -> None:
    client = start(jobs=0)
    for fields, param in (
        ({"store": False}, "store"),
        ({"previous_response_id": "resp_0"}, "previous_response_id"),
        ({"background_options": {"completion_window": "8h"}}, "background_options.completion_window"),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}, "input[0].call_id"),
    ):
        with pytest.raises(BadRequestError) as caught:
            client.responses.create(**{**LONG, **fields})
        assert caught.value.param == param
    waiting = client.responses.create(**LONG, background_options={"completion_window": "soonest"})
    assert client.responses.retrieve(waiting.id).status == "queued"
    with pytest.raises(BadRequestError, match="cannot be continued: it is queued"):
        client.responses.create(input="And?", previous_response_id=waiting.id)


# Resumed


def test_a_stream_is_taken_up_where_it_was_left(start: Callable[..., OpenAI]) -> None:
    client, other = start(), start()
    with client.responses.create(**LONG, max_output_tokens=300, stream=True) as stream:
        events = read(stream, until=8)
    response_id = events[0].response.id
    with other.responses.retrieve(response_id, stream=True, starting_after=8) as stream:
        events += read(stream, until=16)
    events = read_on(client, response_id, events)
    assert_whole(events, client.responses.retrieve(response_id))
    with other.responses.stream(response_id=response_id, starting_after=8) as again:
        assert [e.sequence_number for e in again] == list(range(9, len(events)))


# Cancelled and deleted


def test_cancelling_ends_the_generation_in_whichever_process_it_is(
    start: Callable[..., OpenAI], running: Callable[..., str], scripted_vllm_url: str
) -> None:
    proxy = Breaking(scripted_vllm_url, answers=1, after_bytes=4000, holds=True)
    worker = running(serving(proxy.app()))
    client, other = start(worker=worker), start(jobs=0, worker=worker)
    with client.responses.create(**LONG, max_output_tokens=200, stream=True) as stream:
        events = read(stream, until=8)
        response_id = events[0].response.id
        cancelled = other.responses.cancel(response_id)
        assert (cancelled.status, cancelled.output, cancelled.error) == ("cancelled", [], None)
        events += read(stream)
    assert proxy.left.wait(60), "vLLM was not told"
    assert other.responses.cancel(response_id) == cancelled == client.responses.retrieve(response_id)
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert events[-1].type.endswith(".delta")
    assert read_on(other, response_id, events) == events
    with pytest.raises(BadRequestError, match="cannot be continued: it is cancelled"):
        client.responses.create(input="And?", previous_response_id=response_id)


def test_what_waits_is_cancelled_at_once(start: Callable[..., OpenAI]) -> None:
    idle = start(jobs=0)
    made = idle.responses.create(**LONG)
    assert idle.responses.cancel(made.id).status == "cancelled"
    client = start()
    later = client.responses.create(**LONG, max_output_tokens=8)
    assert polled(client, later.id).status == "incomplete"
    assert client.responses.retrieve(made.id).status == "cancelled"
    assert client.responses.cancel(later.id).status == "incomplete"


def test_deleting_ends_the_generation_too(
    start: Callable[..., OpenAI], running: Callable[..., str], scripted_vllm_url: str
) -> None:
    proxy = Breaking(scripted_vllm_url, answers=1, after_bytes=4000, holds=True)
    client = start(worker=running(serving(proxy.app())))
    with client.responses.create(**LONG, max_output_tokens=200, stream=True) as stream:
        response_id = read(stream, until=8)[0].response.id
        client.responses.delete(response_id)
        read(stream)
    assert proxy.left.wait(60), "vLLM was not told"
    assert httpx.get(f"{client.base_url}responses/{response_id}", timeout=60).status_code == 404


# Through the death of processes


async def test_a_service_killed_in_the_middle_of_a_job(spawn: Callable[..., Any], own: Database) -> None:
    service, client = spawn()
    with client.responses.create(**LONG, max_output_tokens=400, stream=True) as stream:
        events = read(stream, until=50)
        response_id = events[0].response.id
        service.end(signal.SIGKILL)
    _, other = spawn()
    events = read_on(other, response_id, events)
    response = other.responses.retrieve(response_id)
    assert (response.status, response.usage.output_tokens) == ("incomplete", 400)
    assert_whole(events, response)
    assert read(other.responses.retrieve(response_id, stream=True)) == events
    assert await turns_of(own) == [(response_id, 1)]


async def test_a_service_killed_in_the_middle_of_a_resumed_stream(
    spawn: Callable[..., Any], start: Callable[..., OpenAI], own: Database
) -> None:
    """Another process makes the response; it does not notice."""
    start()
    service, client = spawn(jobs=0)
    made = client.responses.create(**LONG, max_output_tokens=600)
    with client.responses.retrieve(made.id, stream=True) as stream:
        events = read(stream, until=40)
        service.end(signal.SIGKILL)
    _, other = spawn(jobs=0)
    events = read_on(other, made.id, events)
    assert_whole(events, other.responses.retrieve(made.id))
    assert await turns_of(own) == [(made.id, 1)]


def test_a_service_that_is_told_to_stop_hands_its_jobs_over(spawn: Callable[..., Any]) -> None:
    """At once: long before it would be taken for dead."""
    service, client = spawn(stalled_s=300)
    _, other = spawn(stalled_s=300, jobs=1)
    busy = [client.responses.create(**LONG, max_output_tokens=400) for _ in range(2)]
    with client.responses.retrieve(busy[-1].id, stream=True) as stream:
        events = read(stream, until=10)
        service.process.send_signal(signal.SIGTERM)
    for made in busy:
        assert polled(other, made.id).status == "incomplete"
    assert_whole(read_on(other, busy[-1].id, events), other.responses.retrieve(busy[-1].id))
    assert service.process.wait(60) == 0


def test_what_was_created_while_nobody_could_take_it(start: Callable[..., OpenAI], own: Database) -> None:
    """A process dies between keeping a response and telling the queue."""
    made = start(jobs=0).responses.create(**LONG, max_output_tokens=8)
    _forget_jobs(own)
    assert polled(start(stalled_s=2), made.id).status == "incomplete"


def _forget_jobs(database: Database) -> None:
    parameters = libpq_parameters(database.engine.url.render_as_string(hide_password=False))
    with psycopg.connect(**parameters, options="-c search_path=marginalia_queue") as connection:
        connection.execute("DELETE FROM procrastinate_jobs")


# Through the death of vLLM


class Breaking(Proxy):
    """Breaks off the first answers after so many bytes, or with `holds` lets them come no further."""

    def __init__(self, target: str, answers: int, after_bytes: int, *, holds: bool = False) -> None:
        super().__init__(target)
        self._answers = answers
        self._after_bytes = after_bytes
        self._holds = holds
        self.streams = 0
        self.left = threading.Event()
        """Somebody went away before the end of an answer."""

    async def relayed(self, answer: httpx.Response) -> AsyncIterator[bytes]:
        streamed = "event-stream" in answer.headers.get("content-type", "")
        self.streams += streamed
        breaks, left = streamed and self.streams <= self._answers, self._after_bytes
        try:
            async for part in super().relayed(answer):
                if breaks and len(part) > left:
                    yield part[:left]
                    await self._break_off()
                left -= len(part)
                yield part
        except asyncio.CancelledError:
            self.left.set()
            raise
        finally:
            await answer.aclose()

    async def _break_off(self) -> None:
        if self._holds:
            await asyncio.sleep(3600)
        raise ConnectionError("vLLM is gone")


def test_vllm_that_breaks_off_is_asked_again(start: Callable[..., OpenAI], scripted_vllm_url: str) -> None:
    proxy = Breaking(scripted_vllm_url, answers=2, after_bytes=4000)
    with serving(proxy.app()) as worker:
        client = start(worker=worker)
        events = read(client.responses.create(**LONG, max_output_tokens=200, stream=True))
        response = client.responses.retrieve(events[0].response.id)
    assert (response.status, proxy.streams) == ("incomplete", 3)
    assert_whole(events, response)


def test_vllm_that_breaks_off_for_good_fails_the_response(
    start: Callable[..., OpenAI], scripted_vllm_url: str
) -> None:
    proxy = Breaking(scripted_vllm_url, answers=99, after_bytes=4000)
    with serving(proxy.app()) as worker:
        client = start(worker=worker)
        events = read(client.responses.create(**LONG, max_output_tokens=200, stream=True))
        response = client.responses.retrieve(events[0].response.id)
    assert (response.status, proxy.streams, response.output) == ("failed", 3, [])
    assert response.error.code == "server_error"
    assert events[-1].type == "response.failed"
    assert [e.sequence_number for e in events] == list(range(len(events)))
