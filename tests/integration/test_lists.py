"""Items by id, lists of input items and of responses, and secrets: one suite for memory and Postgres."""

import secrets
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from app.conversation.records import (
    Item,
    ItemPage,
    Paging,
    ResponseId,
    ResponsePage,
    ResponseStore,
    TenantId,
    Turn,
)
from app.errors import InvalidRequest
from tests.integration.stored_turns import message, saved, turn

NEVER = ["nope", "", "a\x00", "\ud800", "é", "x" * 5000]


async def chain(store: ResponseStore, tenant: TenantId, *names: str) -> list[Turn]:
    turns: list[Turn] = []
    for age, name in enumerate(names):
        turns.append(await saved(store, tenant, name, turns[-1] if turns else None, at=age))
    return turns


def asked_of(turns: list[Turn]) -> list[Item]:
    """All that was input to the last one, oldest first."""
    *before, last = turns
    items = [item for one in before for item in (*one.input_items, *one.output_items)]
    return [*items, *last.input_items]


async def walked(get: Callable[[Paging], Awaitable[Any]], key: Callable[[Any], str], paging: Paging) -> Any:
    """All pages, one after the other."""
    found: list[Any] = []
    while True:
        page: ItemPage | ResponsePage = await get(paging)
        entries = page.items if isinstance(page, ItemPage) else page.responses
        assert len(entries) <= paging.limit
        found += entries
        assert len(found) < 1000, "it never ends"
        if not page.more:
            return found
        assert len(entries) == paging.limit
        paging = replace(paging, after=key(entries[-1]))


# Items by id


async def test_items_are_found_by_their_id(store: ResponseStore, tenant: TenantId) -> None:
    root, leaf = await chain(store, tenant, "root", "leaf")
    wanted = [root.input_items[1], leaf.output_items[0]]
    ids = [item["id"] for item in wanted]
    assert await store.items(tenant, [*ids, *NEVER]) == dict(zip(ids, wanted, strict=True))
    assert await store.items(tenant, []) == {}


async def test_the_newest_live_response_that_holds_an_item_wins(
    store: ResponseStore, tenant: TenantId
) -> None:
    def holding(name: str, at: int) -> Turn:
        return replace(turn(tenant, name, at=at), input_items=(message("user", name, "msg_x"),))

    for one in (holding("new", 9), holding("old", 1), holding("newest", 10)):
        await store.save(one)
    for winner in ("newest", "new", "old"):
        assert await store.items(tenant, ["msg_x"]) == {"msg_x": message("user", winner, "msg_x")}
        await store.delete(tenant, ResponseId(winner))
    assert await store.items(tenant, ["msg_x"]) == {}


async def test_items_of_a_deleted_response_that_others_continue_are_not_found(
    store: ResponseStore, tenant: TenantId
) -> None:
    root, leaf = await chain(store, tenant, "root", "leaf")
    await store.delete(tenant, root.response.id)
    assert await store.items(tenant, [root.input_items[0]["id"]]) == {}
    assert await store.items(tenant, [leaf.input_items[0]["id"]]) != {}


async def test_another_tenants_items_are_not_found(store: ResponseStore, tenant: TenantId) -> None:
    (made,) = await chain(store, tenant, "a")
    stranger = TenantId(f"{tenant}_x")
    item_id = made.input_items[0]["id"]
    assert await store.items(stranger, [item_id]) == {}
    theirs = replace(turn(stranger, "b", at=5), input_items=(message("user", "theirs", item_id),))
    await store.save(theirs)
    assert await store.items(tenant, [item_id]) == {item_id: made.input_items[0]}
    assert await store.items(stranger, [item_id]) == {item_id: theirs.input_items[0]}


@pytest.mark.parametrize("item_id", [None, 7, "", "x" * 257, "a\x00b"], ids=repr)
async def test_an_item_without_a_usable_id_is_kept_but_not_found_by_it(
    store: ResponseStore, tenant: TenantId, item_id: Any
) -> None:
    item: Item = {"id": item_id, "type": "message", "role": "user", "content": "\x00"}
    await store.save(replace(turn(tenant, "a"), input_items=(item,)))
    assert await store.items(tenant, [str(item_id)]) == {}
    assert await store.input_items(tenant, ResponseId("a"), Paging()) == ItemPage((item,), False)


@pytest.mark.parametrize("item_id", ["é b\n", "👩" * 256, "%00", "'; --"], ids=repr)
async def test_an_odd_id_is_an_id(store: ResponseStore, tenant: TenantId, item_id: str) -> None:
    items = message("user", "a", "msg_a"), message("user", "b", item_id)
    await store.save(replace(turn(tenant, "a"), input_items=items))
    assert await store.items(tenant, [item_id]) == {item_id: items[1]}
    page = await store.input_items(tenant, ResponseId("a"), Paging(after=item_id))
    assert page == ItemPage((items[0],), False)


async def test_what_an_item_holds_does_not_matter(store: ResponseStore, tenant: TenantId) -> None:
    item = message("user", "\x00 \\u0000 \\ \u2028", "msg_odd")
    await store.save(replace(turn(tenant, "a"), input_items=(item,)))
    assert await store.items(tenant, ["msg_odd"]) == {"msg_odd": item}


# Input items


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 100])
@pytest.mark.parametrize("ascending", [True, False])
async def test_the_input_items_of_the_whole_chain(
    store: ResponseStore, tenant: TenantId, limit: int, ascending: bool
) -> None:
    turns = await chain(store, tenant, "a", "b", "c")
    await saved(store, tenant, "other", turns[0])

    async def page(paging: Paging) -> ItemPage:
        found = await store.input_items(tenant, turns[-1].response.id, paging)
        assert found is not None
        return found

    found = await walked(page, lambda item: item["id"], Paging(limit, ascending))
    expected = asked_of(turns)
    assert found == (expected if ascending else expected[::-1])


async def test_a_page_says_whether_there_is_more(store: ResponseStore, tenant: TenantId) -> None:
    (one,) = await chain(store, tenant, "a")
    newest, oldest = one.input_items[::-1]
    first = await store.input_items(tenant, ResponseId("a"), Paging(1))
    assert first == ItemPage((newest,), True)
    assert await store.input_items(tenant, ResponseId("a"), Paging(1, after=newest["id"])) == ItemPage(
        (oldest,), False
    )
    last = await store.input_items(tenant, ResponseId("a"), Paging(1, after=oldest["id"]))
    assert last == ItemPage((), False)
    assert await store.input_items(tenant, ResponseId("a"), Paging(2)) == ItemPage((newest, oldest), False)


async def test_a_response_without_input_has_an_empty_list(store: ResponseStore, tenant: TenantId) -> None:
    await store.save(replace(turn(tenant, "a"), input_items=()))
    assert await store.input_items(tenant, ResponseId("a"), Paging()) == ItemPage((), False)


async def test_more_than_ten_items_are_in_their_order(store: ResponseStore, tenant: TenantId) -> None:
    items = tuple(message("user", str(n), f"msg_{n}") for n in range(25))
    await store.save(replace(turn(tenant, "a"), input_items=items))
    page = await store.input_items(tenant, ResponseId("a"), Paging(100, ascending=True))
    assert page == ItemPage(items, False)


@pytest.mark.parametrize("after", [*NEVER, "msg_b_2", "msg_other_0", "msg_stranger_0"], ids=repr)
async def test_a_list_goes_on_after_nothing_but_its_own_items(
    store: ResponseStore, tenant: TenantId, after: str
) -> None:
    """Not after the response's own output, nor an item of another branch or tenant."""
    root, _ = await chain(store, tenant, "a", "b")
    await saved(store, tenant, "other", root)
    await saved(store, TenantId(f"{tenant}_x"), "stranger")
    with pytest.raises(InvalidRequest) as error:
        await store.input_items(tenant, ResponseId("b"), Paging(after=after))
    assert (error.value.code, error.value.param) == ("invalid_value", "after")


@pytest.mark.parametrize("unknown", NEVER, ids=repr)
async def test_unknown_responses_have_no_list(store: ResponseStore, tenant: TenantId, unknown: str) -> None:
    await chain(store, tenant, "a")
    for paging in (Paging(), Paging(after="msg_a_0"), Paging(after="nope")):
        assert await store.input_items(tenant, ResponseId(unknown), paging) is None


async def test_a_deleted_responses_items_stay_in_its_descendants_list(
    store: ResponseStore, tenant: TenantId
) -> None:
    turns = await chain(store, tenant, "a", "b", "c")
    await store.delete(tenant, ResponseId("b"))
    assert await store.input_items(tenant, ResponseId("b"), Paging()) is None
    page = await store.input_items(tenant, ResponseId("c"), Paging(ascending=True))
    assert page == ItemPage(tuple(asked_of(turns)), False)


async def test_another_tenant_has_no_list(store: ResponseStore, tenant: TenantId) -> None:
    turns = await chain(store, tenant, "a", "b")
    stranger = TenantId(f"{tenant}_x")
    assert await store.input_items(stranger, ResponseId("b"), Paging()) is None
    await saved(store, stranger, "a")
    assert await store.input_items(stranger, ResponseId("b"), Paging()) is None
    page = await store.input_items(tenant, ResponseId("b"), Paging(ascending=True))
    assert page == ItemPage(tuple(asked_of(turns)), False)


IDS = st.lists(st.sampled_from(["i0", "i1", "i2", "i3", "i4"]), max_size=3)


@pytest.mark.parametrize("ascending", [True, False])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(ids=st.lists(st.tuples(IDS, IDS), min_size=1, max_size=4), limit=st.integers(1, 4))
@example(ids=[(["i0", "i1"], ["i2"]), (["i1", "i3"], [])], limit=1)
async def test_an_id_twice_in_a_chain_is_listed_once(
    store: ResponseStore, ascending: bool, ids: list[tuple[list[str], list[str]]], limit: int
) -> None:
    """A client may send an item again, or another with the same id: a walk meets the last of them alone."""
    tenant = TenantId(f"tenant_{secrets.token_hex(6)}")
    contents = map(str, count())
    turns: list[Turn] = []
    for age, (asked, answered) in enumerate(ids):
        bare = turn(tenant, f"r{age}", turns[-1] if turns else None, at=age)
        inputs = tuple(message("user", next(contents), item_id) for item_id in asked)
        outputs = tuple(message("assistant", next(contents), item_id) for item_id in answered)
        turns.append(replace(bare, input_items=inputs, output_items=outputs))
        await store.save(turns[-1])

    async def page(paging: Paging) -> ItemPage:
        found = await store.input_items(tenant, turns[-1].response.id, paging)
        assert found is not None
        return found

    listed: list[Item] = []
    for item in reversed(asked_of(turns)):
        if item["id"] not in [newer["id"] for newer in listed]:
            listed.append(item)
    expected = listed[::-1] if ascending else listed
    assert await walked(page, lambda item: item["id"], Paging(limit, ascending)) == expected


async def test_items_without_a_usable_id_are_all_listed(store: ResponseStore, tenant: TenantId) -> None:
    items = tuple(message("user", str(n), "x" * 257) for n in range(3))
    await store.save(replace(turn(tenant, "a"), input_items=items))
    page = await store.input_items(tenant, ResponseId("a"), Paging(ascending=True))
    assert page == ItemPage(items, False)


# Responses


def names(page: ResponsePage) -> list[str]:
    return [stored.id for stored, _ in page.responses]


@pytest.mark.parametrize("limit", [1, 2, 4, 5, 100])
@pytest.mark.parametrize("ascending", [True, False])
async def test_responses_by_age(store: ResponseStore, tenant: TenantId, limit: int, ascending: bool) -> None:
    # Not saved in their order; two of the same microsecond are in the order of their ids.
    ages = {"c": 2, "a": 0, "e": 3, "d": 3, "b": 1}
    turns = {name: await saved(store, tenant, name, at=at) for name, at in ages.items()}
    found = await walked(
        lambda paging: store.responses(tenant, paging), lambda entry: entry[0].id, Paging(limit, ascending)
    )
    order = "abcde" if ascending else "edcba"
    assert found == [(turns[name].response, turns[name].output_items) for name in order]


async def test_responses_that_came_meanwhile_do_not_shift_the_pages(
    store: ResponseStore, tenant: TenantId
) -> None:
    for at, name in enumerate("abcd"):
        await saved(store, tenant, name, at=at)
    first = await store.responses(tenant, Paging(2))
    await saved(store, tenant, "e", at=9)
    await store.delete(tenant, ResponseId("d"))
    second = await store.responses(tenant, Paging(2, after="c"))
    assert names(first) + names(second) == ["d", "c", "b", "a"]


async def test_deleted_responses_are_not_listed(store: ResponseStore, tenant: TenantId) -> None:
    await chain(store, tenant, "a", "b", "c", "d")
    await store.delete(tenant, ResponseId("b"))
    await store.delete(tenant, ResponseId("d"))
    assert names(await store.responses(tenant, Paging())) == ["c", "a"]
    for gone in ("b", "d"):
        with pytest.raises(InvalidRequest) as error:
            await store.responses(tenant, Paging(after=gone))
        assert (error.value.code, error.value.param) == ("invalid_value", "after")


async def test_a_tenant_lists_its_own_responses_alone(store: ResponseStore, tenant: TenantId) -> None:
    await chain(store, tenant, "a", "b")
    stranger = TenantId(f"{tenant}_x")
    assert await store.responses(stranger, Paging()) == ResponsePage((), False)
    await saved(store, stranger, "c", at=1)
    assert names(await store.responses(stranger, Paging())) == ["c"]
    assert names(await store.responses(tenant, Paging())) == ["b", "a"]
    with pytest.raises(InvalidRequest):
        await store.responses(stranger, Paging(after="b"))


@pytest.mark.parametrize("after", NEVER, ids=repr)
async def test_responses_after_an_unknown_one(store: ResponseStore, tenant: TenantId, after: str) -> None:
    await chain(store, tenant, "a")
    with pytest.raises(InvalidRequest) as error:
        await store.responses(tenant, Paging(after=after))
    assert error.value.param == "after"


# Secrets


async def test_a_key_is_made_once(store: ResponseStore, tenant: TenantId) -> None:
    key = await store.key(f"{tenant} one")
    assert len(key) == 32
    assert await store.key(f"{tenant} one") == key
    assert await store.key(f"{tenant} two") != key
