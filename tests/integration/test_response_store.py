"""What any ResponseStore does: one suite, held against memory and Postgres."""

import random
from typing import Any

import pytest

from app.conversation.records import (
    Checkpoint,
    Item,
    Paging,
    ResponseId,
    ResponseStore,
    Segment,
    TenantId,
    Turn,
)
from app.errors import PreviousResponseNotFound
from app.store.database import Database
from app.store.memory import MemoryResponseStore
from app.store.responses import PostgresResponseStore
from tests.integration.stored_turns import NOW, message, saved, segment, turn


async def known(store: ResponseStore, of: Turn) -> bool:
    return await store.get(of.response.tenant, of.response.id) is not None


async def test_a_turn_comes_back_as_it_was(store: ResponseStore, tenant: TenantId) -> None:
    made = await saved(store, tenant, "a")
    parent = await store.parent(tenant, made.response.id)
    assert parent is not None
    assert (parent.response, parent.output_items, parent.checkpoint) == (
        made.response,
        made.output_items,
        made.checkpoint,
    )
    assert await store.get(tenant, made.response.id) == (made.response, made.output_items)
    assert await store.history(tenant, made.response.id) == [segment(made)]


async def test_a_turn_without_items_and_checkpoint(store: ResponseStore, tenant: TenantId) -> None:
    bare = Turn(turn(tenant, "a").response, (), (), None)
    await store.save(bare)
    parent = await store.parent(tenant, bare.response.id)
    assert parent is not None
    assert parent.output_items == ()
    assert parent.checkpoint is None
    assert await store.history(tenant, bare.response.id) == [Segment((), ())]


async def test_a_checkpoint_without_boundaries_is_a_checkpoint(
    store: ResponseStore, tenant: TenantId
) -> None:
    empty = Checkpoint("r", "h", 0, "f", (), "w", NOW)
    await store.save(Turn(turn(tenant, "a").response, (), (), empty))
    parent = await store.parent(tenant, ResponseId("a"))
    assert parent is not None
    assert parent.checkpoint == empty


@pytest.mark.parametrize(
    "value",
    [
        "a\x00b",
        "\x00",
        "\\u0000",
        "👩‍👩‍👧 ü \u2028",
        '"\\',
        "\x01\x1f\x7f",
        1e22,
        1.0,
        2**80,
        -0.0,
        True,
        None,
    ],
    ids=repr,
)
async def test_json_survives_exactly(store: ResponseStore, tenant: TenantId, value: Any) -> None:
    # Keys in an order that jsonb would change.
    item: Item = {"zz": value, "b": {"long key": [value], "a": 1}, "aaa": {}}
    made = turn(tenant, "a", metadata={"z": value, "a": value})
    await store.save(Turn(made.response, (item,), (item, item), None))
    found = await store.get(tenant, made.response.id)
    assert found is not None
    assert repr(found) == repr((made.response, (item, item)))
    assert repr(await store.history(tenant, made.response.id)) == repr([Segment((item,), (item, item))])


async def test_items_keep_their_order(store: ResponseStore, tenant: TenantId) -> None:
    items = tuple(message("user", str(n)) for n in range(25))
    await store.save(Turn(turn(tenant, "a").response, items, items[::-1], None))
    assert await store.history(tenant, ResponseId("a")) == [Segment(items, items[::-1])]


@pytest.mark.parametrize("unknown", ["nope", "", "a\x00", "\ud800", "é"], ids=repr)
async def test_unknown_ids(store: ResponseStore, tenant: TenantId, unknown: str) -> None:
    await saved(store, tenant, "a")
    response_id = ResponseId(unknown)
    assert await store.parent(tenant, response_id) is None
    assert await store.get(tenant, response_id) is None
    assert await store.delete(tenant, response_id) is None
    with pytest.raises(PreviousResponseNotFound) as error:
        await store.history(tenant, response_id)
    assert error.value.param == "previous_response_id"


async def test_a_tenant_sees_and_touches_nothing_of_another(store: ResponseStore, tenant: TenantId) -> None:
    made = await saved(store, tenant, "a")
    stranger = TenantId(f"{tenant}_x")
    assert await store.parent(stranger, made.response.id) is None
    assert await store.get(stranger, made.response.id) is None
    assert await store.delete(stranger, made.response.id) is None
    with pytest.raises(PreviousResponseNotFound):
        await store.history(stranger, made.response.id)
    with pytest.raises(PreviousResponseNotFound):
        await store.save(turn(stranger, "b", made))
    assert await known(store, made)


async def test_two_tenants_may_use_the_same_id(store: ResponseStore, tenant: TenantId) -> None:
    """Else one could find out which ids the other has."""
    mine = await saved(store, tenant, "a")
    theirs = await saved(store, TenantId(f"{tenant}_x"), "a")
    child = await saved(store, tenant, "b", mine)
    await store.delete(tenant, mine.response.id)
    await store.delete(tenant, child.response.id)
    assert not await known(store, mine)
    assert await store.history(theirs.response.tenant, theirs.response.id) == [segment(theirs)]


async def test_history_of_200_turns_oldest_first(store: ResponseStore, tenant: TenantId) -> None:
    turns: list[Turn] = []
    for n in range(200):
        turns.append(await saved(store, tenant, f"r{n}", turns[-1] if turns else None))
    assert await store.history(tenant, turns[-1].response.id) == [segment(t) for t in turns]
    assert await store.history(tenant, turns[99].response.id) == [segment(t) for t in turns[:100]]


async def test_branches_have_their_own_history(store: ResponseStore, tenant: TenantId) -> None:
    root = await saved(store, tenant, "root")
    left, right = await saved(store, tenant, "left", root), await saved(store, tenant, "right", root)
    assert await store.history(tenant, left.response.id) == [segment(root), segment(left)]
    assert await store.history(tenant, right.response.id) == [segment(root), segment(right)]


async def test_deleting_a_leaf_removes_it(store: ResponseStore, tenant: TenantId) -> None:
    root = await saved(store, tenant, "root")
    leaf = await saved(store, tenant, "leaf", root)
    assert await store.delete(tenant, leaf.response.id) == [leaf.checkpoint]
    assert not await known(store, leaf)
    assert await known(store, root)
    assert await store.delete(tenant, leaf.response.id) is None


async def test_a_deleted_ancestor_stays_in_its_descendants_history(
    store: ResponseStore, tenant: TenantId
) -> None:
    root = await saved(store, tenant, "root")
    middle = await saved(store, tenant, "middle", root)
    leaf = await saved(store, tenant, "leaf", middle)
    assert await store.delete(tenant, middle.response.id) == [middle.checkpoint]
    assert await store.parent(tenant, middle.response.id) is None
    assert await store.get(tenant, middle.response.id) is None
    assert await store.delete(tenant, middle.response.id) is None
    assert await store.history(tenant, leaf.response.id) == [segment(root), segment(middle), segment(leaf)]
    parent = await store.parent(tenant, leaf.response.id)
    assert parent is not None
    assert parent.checkpoint == leaf.checkpoint


async def test_the_last_descendant_takes_the_tombstones_along(store: ResponseStore, tenant: TenantId) -> None:
    root = await saved(store, tenant, "root")
    middle = await saved(store, tenant, "middle", root)
    leaf = await saved(store, tenant, "leaf", middle)
    await store.delete(tenant, root.response.id)
    await store.delete(tenant, middle.response.id)
    assert await store.delete(tenant, leaf.response.id) == [leaf.checkpoint]
    for gone in (root, middle, leaf):
        with pytest.raises(PreviousResponseNotFound):
            await store.history(tenant, gone.response.id)


async def test_tombstones_stay_for_another_branch(store: ResponseStore, tenant: TenantId) -> None:
    root = await saved(store, tenant, "root")
    fork = await saved(store, tenant, "fork", root)
    left, right = await saved(store, tenant, "left", fork), await saved(store, tenant, "right", fork)
    await store.delete(tenant, root.response.id)
    await store.delete(tenant, fork.response.id)
    await store.delete(tenant, left.response.id)
    assert await store.history(tenant, right.response.id) == [segment(root), segment(fork), segment(right)]
    await store.delete(tenant, right.response.id)
    with pytest.raises(PreviousResponseNotFound):
        await store.history(tenant, root.response.id)


async def test_a_live_ancestor_stops_the_removal(store: ResponseStore, tenant: TenantId) -> None:
    root = await saved(store, tenant, "root")
    middle = await saved(store, tenant, "middle", root)
    leaf = await saved(store, tenant, "leaf", middle)
    await store.delete(tenant, root.response.id)
    await store.delete(tenant, leaf.response.id)
    assert await known(store, middle)
    assert await store.history(tenant, middle.response.id) == [segment(root), segment(middle)]


async def test_a_turn_after_a_tombstone_is_saved(store: ResponseStore, tenant: TenantId) -> None:
    root = await saved(store, tenant, "root")
    await saved(store, tenant, "left", root)
    await store.delete(tenant, root.response.id)
    late = await saved(store, tenant, "late", root)
    assert await store.history(tenant, late.response.id) == [segment(root), segment(late)]


async def test_a_turn_after_a_removed_parent_is_refused(store: ResponseStore, tenant: TenantId) -> None:
    root = await saved(store, tenant, "root")
    await store.delete(tenant, root.response.id)
    late = turn(tenant, "late", root)
    with pytest.raises(PreviousResponseNotFound) as error:
        await store.save(late)
    assert error.value.param == "previous_response_id"
    assert not await known(store, late)


async def seeded(store: ResponseStore, *turns: Turn) -> None:
    for one in turns:
        await store.save_seed(one.response.tenant, one.response.id, f"ids {one.response.id}".encode())


async def test_seeds_come_back_oldest_first_and_of_the_own_branch(
    store: ResponseStore, tenant: TenantId
) -> None:
    root = await saved(store, tenant, "root")
    left, right = await saved(store, tenant, "left", root), await saved(store, tenant, "right", root)
    gap = await saved(store, tenant, "gap", right)
    leaf = await saved(store, tenant, "leaf", gap)
    # Not in their order: writing one may take longer than the next turn.
    await seeded(store, leaf, left, right, root)
    assert await store.seeds(tenant, leaf.response.id) == [b"ids root", b"ids right", b"ids leaf"]
    assert await store.seeds(tenant, gap.response.id) == [b"ids root", b"ids right"]
    assert await store.seeds(tenant, left.response.id) == [b"ids root", b"ids left"]


async def test_a_seed_is_any_bytes(store: ResponseStore, tenant: TenantId) -> None:
    made = await saved(store, tenant, "a")
    seed = bytes(range(256)) * 1000
    await store.save_seed(tenant, made.response.id, seed)
    assert await store.seeds(tenant, made.response.id) == [seed]


async def test_a_deleted_response_has_no_seed_nor_gets_one(store: ResponseStore, tenant: TenantId) -> None:
    root = await saved(store, tenant, "root")
    middle = await saved(store, tenant, "middle", root)
    leaf = await saved(store, tenant, "leaf", middle)
    await seeded(store, root, middle, leaf)
    await store.delete(tenant, middle.response.id)
    assert await store.seeds(tenant, leaf.response.id) == [b"ids root", b"ids leaf"]
    await store.delete(tenant, leaf.response.id)
    assert await store.seeds(tenant, leaf.response.id) == []
    await seeded(store, middle, leaf)
    assert await store.seeds(tenant, middle.response.id) == []
    assert await store.seeds(tenant, leaf.response.id) == []
    assert await store.seeds(tenant, root.response.id) == [b"ids root"]


async def test_a_tombstone_gets_no_seed(store: ResponseStore, tenant: TenantId) -> None:
    root = await saved(store, tenant, "root")
    leaf = await saved(store, tenant, "leaf", root)
    await store.delete(tenant, root.response.id)
    await seeded(store, root, leaf)
    assert await store.seeds(tenant, leaf.response.id) == [b"ids leaf"]


async def test_seeds_of_a_turn_that_is_not_cached_or_not_there(
    store: ResponseStore, tenant: TenantId
) -> None:
    bare = turn(tenant, "a", cached=False)
    await store.save(bare)
    await seeded(store, bare, turn(tenant, "unknown"))
    for response_id in ("a", "unknown", "", "a\x00", "\ud800"):
        assert await store.seeds(tenant, ResponseId(response_id)) == []


async def test_a_tenant_has_its_own_seeds(store: ResponseStore, tenant: TenantId) -> None:
    stranger = TenantId(f"{tenant}_x")
    mine, theirs = await saved(store, tenant, "a"), await saved(store, stranger, "b")
    await seeded(store, mine)
    await store.save_seed(stranger, mine.response.id, b"not theirs")
    assert await store.seeds(stranger, mine.response.id) == []
    same = await saved(store, stranger, "a", theirs)
    assert await store.seeds(stranger, same.response.id) == []
    await store.delete(stranger, same.response.id)
    assert await store.seeds(tenant, mine.response.id) == [b"ids a"]


async def test_ping(store: ResponseStore) -> None:
    await store.ping()


@pytest.mark.parametrize("seed", range(4))
async def test_both_stores_agree_after_random_work(database: Database, tenant: TenantId, seed: int) -> None:
    chance = random.Random(seed)
    stores: list[ResponseStore] = [MemoryResponseStore(), PostgresResponseStore(database)]
    turns: list[Turn] = []
    seeds: list[Turn] = []
    for n in range(40):
        subject = chance.choice(turns) if turns else None
        if subject is not None and chance.random() < 0.45:
            deleted = [await store.delete(tenant, subject.response.id) for store in stores]
            assert deleted[0] == deleted[1]
        else:
            new = turn(tenant, f"r{n}", subject, cached=chance.random() < 0.7)
            outcomes = [await outcome(store, new) for store in stores]
            assert outcomes[0] == outcomes[1]
            turns.append(new)
            late = chance.choice(turns)
            if late not in seeds:
                seeds.append(late)
                for store in stores:
                    await seeded(store, late)
    for one in turns:
        views = [await view(store, one) for store in stores]
        assert views[0] == views[1]


async def outcome(store: ResponseStore, new: Turn) -> str:
    try:
        await store.save(new)
    except PreviousResponseNotFound:
        return "refused"
    return "saved"


async def view(store: ResponseStore, of: Turn) -> object:
    key = (of.response.tenant, of.response.id)
    try:
        history = await store.history(*key)
    except PreviousResponseNotFound:
        history = None
    items = await store.items(key[0], [f"msg_{of.response.id}_{n}" for n in range(3)])
    lists = await store.input_items(*key, Paging(7)), await store.responses(key[0], Paging(7))
    return await store.parent(*key), await store.get(*key), history, await store.seeds(*key), items, lists
