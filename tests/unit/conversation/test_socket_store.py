"""Turns that are kept for one WebSocket: what they are found by, and which go when there are too many."""

import pytest

from app.conversation.records import DEFAULT_TENANT, Parent, ResponseId, Segment, TenantId, Turn
from app.conversation.socket_store import SocketStore
from app.errors import PreviousResponseNotFound
from app.store.memory import MemoryResponseStore
from tests.integration.stored_turns import saved, turn


@pytest.fixture
def stored() -> MemoryResponseStore:
    return MemoryResponseStore()


@pytest.fixture
def store(stored: MemoryResponseStore) -> SocketStore:
    return SocketStore(stored)


async def kept(store: SocketStore, name: str, after: Turn | None = None, at: int = 0) -> Turn:
    made = turn(DEFAULT_TENANT, name, after, at=at)
    await store.keep(made)
    return made


async def known(store: SocketStore, *names: str) -> list[str]:
    return [name for name in names if store.holds(DEFAULT_TENANT, ResponseId(name))]


async def test_what_is_kept_can_be_continued_and_is_not_stored(
    store: SocketStore, stored: MemoryResponseStore
) -> None:
    one = await kept(store, "one")
    found = await store.parent(DEFAULT_TENANT, one.response.id)
    assert found == Parent(one.response, one.output_items, one.checkpoint)
    assert await stored.parent(DEFAULT_TENANT, one.response.id) is None
    assert await store.get(DEFAULT_TENANT, one.response.id) is None
    assert store.checkpoints() == [one.checkpoint]


async def test_what_is_stored_is_found_through_it(store: SocketStore) -> None:
    one = await saved(store, DEFAULT_TENANT, "one")
    assert await store.parent(DEFAULT_TENANT, one.response.id) is not None
    assert not store.holds(DEFAULT_TENANT, one.response.id)
    history = await store.history(DEFAULT_TENANT, one.response.id)
    assert history == [Segment(one.input_items, one.output_items)]
    assert store.checkpoints() == []


async def test_a_history_begins_with_what_is_stored(store: SocketStore) -> None:
    turns = [await saved(store, DEFAULT_TENANT, "a")]
    turns.append(await saved(store, DEFAULT_TENANT, "b", turns[-1]))
    turns.append(await kept(store, "c", turns[-1]))
    turns.append(await kept(store, "d", turns[-1]))
    history = await store.history(DEFAULT_TENANT, turns[-1].response.id)
    assert history == [Segment(made.input_items, made.output_items) for made in turns]


async def test_a_history_whose_stored_part_was_deleted_is_none(store: SocketStore) -> None:
    stored = await saved(store, DEFAULT_TENANT, "a")
    after = await kept(store, "b", stored)
    await store.delete(DEFAULT_TENANT, stored.response.id)
    with pytest.raises(PreviousResponseNotFound):
        await store.history(DEFAULT_TENANT, after.response.id)


async def test_another_tenants_are_not_found(store: SocketStore) -> None:
    one = await kept(store, "one")
    other = TenantId("other")
    assert await store.parent(other, one.response.id) is None
    assert not store.holds(other, one.response.id)
    assert await store.items(other, ["msg_one_0"]) == {}


async def test_items_are_found_in_both_the_newest_of_each_id(store: SocketStore) -> None:
    await saved(store, DEFAULT_TENANT, "a")
    later = await kept(store, "b", at=2)
    earlier = turn(DEFAULT_TENANT, "b", at=1)
    earlier.input_items[0]["content"] = "older"
    await store.keep(Turn(turn(DEFAULT_TENANT, "c", at=1).response, earlier.input_items, (), None))
    found = await store.items(DEFAULT_TENANT, ["msg_a_0", "msg_b_0", "msg_x"])
    assert found == {
        "msg_a_0": turn(DEFAULT_TENANT, "a").input_items[0],
        "msg_b_0": later.input_items[0],
    }


async def test_what_a_client_does_with_its_items_later_changes_nothing(store: SocketStore) -> None:
    one = await kept(store, "one")
    one.output_items[0]["content"] = "changed"
    one.response.body["model"] = "changed"
    found = await store.parent(DEFAULT_TENANT, one.response.id)
    assert found and found.output_items[0]["content"] == "out one"
    assert found.response.body["model"] == "m"


async def room_for(turns: int) -> int:
    """Bytes, of turns with names of two characters."""
    store = SocketStore(MemoryResponseStore())
    await kept(store, "xx")
    return turns * store.bytes_used


async def test_the_branch_that_was_used_longest_ago_goes_first_from_its_end(
    stored: MemoryResponseStore,
) -> None:
    store = SocketStore(stored, await room_for(4))
    root = await kept(store, "r0")
    await kept(store, "a1", root)
    b1 = await kept(store, "b1", root)
    await kept(store, "b2", b1)
    await store.parent(DEFAULT_TENANT, ResponseId("a1"))
    await kept(store, "x0")
    assert await known(store, "r0", "a1", "b1", "b2", "x0") == ["r0", "a1", "b1", "x0"]
    await kept(store, "x1")
    assert await known(store, "r0", "a1", "b1", "x0", "x1") == ["r0", "a1", "x0", "x1"]
    await kept(store, "x2")
    await kept(store, "x3")
    assert await known(store, "r0", "a1", "x0", "x1", "x2", "x3") == ["x0", "x1", "x2", "x3"]
    assert store.bytes_used == await room_for(4)


async def test_the_conversation_in_use_stays_whole(stored: MemoryResponseStore) -> None:
    store = SocketStore(stored, await room_for(5))
    last = await kept(store, "c0")
    for number in range(1, 4):
        await kept(store, f"z{number}")
        last = await kept(store, f"c{number}", last)
        assert len(await store.history(DEFAULT_TENANT, last.response.id)) == number + 1


async def test_a_turn_that_alone_is_too_large_is_not_kept(stored: MemoryResponseStore) -> None:
    store = SocketStore(stored, await room_for(1) - 1)
    await kept(store, "xx")
    assert await known(store, "xx") == []
    assert store.bytes_used == 0


async def test_all_texts_are_kept_as_they_are(store: SocketStore) -> None:
    made = turn(DEFAULT_TENANT, "one")
    made.input_items[0]["content"] = "日本 \ud800 \U0001f600 \x00"
    await store.keep(made)
    assert (await store.history(DEFAULT_TENANT, made.response.id))[0].input_items == made.input_items
