"""Token ids kept beside the turns: after the answer, never in its way, and sent only to who lost them."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import pytest_asyncio

from app.conversation.engine import PrefixMissed, Whole
from app.conversation.options import Options
from app.conversation.plan import Caching
from app.conversation.records import DEFAULT_TENANT, ResponseId, TenantId
from app.conversation.seeds import MAX_WAITING, Seeds
from app.errors import StoreUnavailable
from app.store.memory import MemoryResponseStore
from tests.unit.conversation.test_turns import CHECKPOINT, Chat, caching, request


class Store(MemoryResponseStore):
    """Writes seeds only while `open`, and where nothing `fails`; counts writes begun and reads."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.open.set()
        self.fails: Exception | None = None
        self.writes = self.reads = 0

    async def save_seed(self, tenant: TenantId, response_id: ResponseId, seed: bytes) -> None:
        self.writes += 1
        await self.open.wait()
        if self.fails:
            raise self.fails
        await super().save_seed(tenant, response_id, seed)

    async def seeds(self, tenant: TenantId, response_id: ResponseId) -> list[bytes]:
        self.reads += 1
        if self.fails:
            raise self.fails
        return await super().seeds(tenant, response_id)

    async def kept(self, response_id: str) -> list[bytes]:
        return await super().seeds(DEFAULT_TENANT, ResponseId(response_id))


@pytest.fixture
def store() -> Store:
    return Store()


@pytest_asyncio.fixture
async def seeds(store: Store) -> AsyncIterator[Seeds]:
    async with Seeds(store) as seeds:
        yield seeds
        store.open.set()


@pytest.fixture
def chat(store: Store, seeds: Seeds) -> Chat:
    return Chat(store, seeds)


def sent(chat: Chat) -> tuple[bytes, ...]:
    """The seeds of the last prompt, which was a whole conversation."""
    whole = chat.worker.prompts[-1]
    assert isinstance(whole, Whole)
    return whole.seeds


async def test_a_seed_is_kept_once_the_turn_is_settled(chat: Chat, store: Store, seeds: Seeds) -> None:
    running = await chat.turns.start(request(), DEFAULT_TENANT)
    async for events in running.events():
        await seeds.written()
        assert await store.kept(running.id) == [], events[-1]["type"]
    await seeds.written()
    assert store.writes == 0
    await running.settle()
    await seeds.written()
    assert await store.kept(running.id) == [b"1"]


async def test_a_lost_reference_is_sent_with_the_seeds_of_its_chain(
    chat: Chat, store: Store, seeds: Seeds
) -> None:
    first = await chat.response(request())
    second = await chat.response(request(first["id"]))
    await chat.response(request(first["id"]))  # another branch
    await seeds.written()
    assert store.reads == 0
    chat.worker.misses = [PrefixMissed("prefix_miss")]
    third = await chat.response(request(second["id"]))
    assert caching(third) == ("reseed", "prefix_miss")
    assert sent(chat) == (b"1", b"2")
    await seeds.written()
    assert await store.kept(third["id"]) == [b"1", b"2", b"5"]


async def test_a_reference_that_expired_by_our_clock_has_them_too(chat: Chat, seeds: Seeds) -> None:
    chat.worker.checkpoint = replace(CHECKPOINT, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    first = await chat.response(request())
    await seeds.written()
    assert caching(await chat.response(request(first["id"]))) == ("reseed", "prefix_expired")
    assert sent(chat) == (b"1",)


async def test_who_lost_nothing_is_sent_none_and_nothing_is_read(chat: Chat, store: Store) -> None:
    first = await chat.response(request())
    for changed in (
        request(first["id"]),
        request(first["id"], options=Options(instructions="be kind")),
        request(first["id"], caching=Caching(enabled=False, ttl_s=60)),
    ):
        await chat.response(changed)
    # vLLM's own route has no use for them.
    chat.worker.misses = [PrefixMissed("prefix_miss")]
    await chat.response(request(first["id"], store=False))
    assert sent(chat) == ()
    assert store.reads == 0


async def test_the_next_turn_does_not_wait_for_a_seed(chat: Chat, store: Store, seeds: Seeds) -> None:
    store.open.clear()
    first = await chat.response(request())
    second = await chat.response(request(first["id"]))
    assert caching(second) == ("hit", None)
    chat.worker.misses = [PrefixMissed("prefix_miss")]
    assert caching(await chat.response(request(second["id"]))) == ("reseed", "prefix_miss")
    assert sent(chat) == ()
    store.open.set()
    await seeds.written()
    assert await store.kept(second["id"]) == [b"1", b"2"]


ERRORS = {"down": StoreUnavailable("down"), "ValueError": ValueError("shows what was to be written")}


@pytest.mark.parametrize("logged", ERRORS)
async def test_a_seed_that_cannot_be_written_is_counted_and_the_next_one_is_written(
    chat: Chat, store: Store, seeds: Seeds, logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    store.fails = ERRORS[logged]
    first = await chat.response(request())
    await seeds.written()
    assert (first["status"], seeds.dropped) == ("completed", 1)
    assert logged in caplog.text
    assert "shows" not in caplog.text
    store.fails = None
    second = await chat.response(request(first["id"]))
    await seeds.written()
    assert await store.kept(second["id"]) == [b"2"]


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
async def test_seeds_that_cannot_be_read_are_none(
    chat: Chat, store: Store, seeds: Seeds, error: Exception
) -> None:
    first = await chat.response(request())
    await seeds.written()
    store.fails = error
    chat.worker.misses = [PrefixMissed("prefix_miss")]
    assert caching(await chat.response(request(first["id"]))) == ("reseed", "prefix_miss")
    assert sent(chat) == ()


async def test_a_response_deleted_meanwhile_keeps_none(chat: Chat, store: Store, seeds: Seeds) -> None:
    store.open.clear()
    leaf = await chat.response(request())
    parent = await chat.response(request())
    child = await chat.response(request(parent["id"]))
    for gone in (leaf, parent):
        await store.delete(DEFAULT_TENANT, gone["id"])
    store.open.set()
    await seeds.written()
    assert seeds.dropped == 0
    assert await store.kept(child["id"]) == [b"3"]
    assert await store.kept(leaf["id"]) == []


async def test_a_turn_that_keeps_nothing_has_no_seed(chat: Chat, store: Store, seeds: Seeds) -> None:
    chat.worker.breaks_off = True
    failed = (await chat.turn(request()))[-1]
    chat.worker.breaks_off = False
    kept = [
        failed["response"],
        await chat.response(request(store=False)),
        await chat.response(request(caching=Caching(enabled=False, ttl_s=60))),
    ]
    # A commit that is refused, as its parent was removed meanwhile.
    parent = await chat.response(request(caching=Caching(enabled=False, ttl_s=60)))
    running = await chat.turns.start(request(parent["id"]), DEFAULT_TENANT)
    await store.delete(DEFAULT_TENANT, parent["id"])
    kept.append([events async for events in running.events()][-1][-1]["response"])
    await running.settle()
    await seeds.written()
    assert failed["type"] == "response.failed"
    assert [response["status"] for response in kept] == ["failed", "completed", "completed", "failed"]
    assert [await store.kept(response["id"]) for response in kept] == [[]] * 4
    assert (store.writes, seeds.dropped) == (0, 0)


async def test_switched_off_nothing_is_asked_for_written_or_read() -> None:
    store = Store()
    chat = Chat(store, None)
    first = await chat.response(request())
    chat.worker.misses = [PrefixMissed("prefix_miss")]
    second = await chat.response(request(first["id"]))
    assert caching(second) == ("reseed", "prefix_miss")
    assert not any(generation.keep_ids for generation in chat.worker.generations)
    assert (sent(chat), store.reads, await store.kept(second["id"])) == ((), 0, [])


async def test_too_many_seeds_are_dropped_not_waited_for(store: Store, seeds: Seeds) -> None:
    store.open.clear()
    for n in range(MAX_WAITING + 10):
        seeds.keep(DEFAULT_TENANT, ResponseId(f"r{n}"), b"")
        await asyncio.sleep(0)
    assert seeds.dropped == 9  # One of them is being written.


async def test_a_shutdown_writes_what_waits() -> None:
    store = Store()
    async with Seeds(store) as seeds:
        chat = Chat(store, seeds)
        first = await chat.response(request())
        second = await chat.response(request(first["id"]))
    assert await store.kept(second["id"]) == [b"1", b"2"]


async def test_a_shutdown_does_not_wait_for_ever() -> None:
    store = Store()
    store.open.clear()
    async with Seeds(store, drain_s=0.01) as seeds:
        for n in range(3):
            seeds.keep(DEFAULT_TENANT, ResponseId(f"r{n}"), b"")
    assert seeds.dropped == 3
