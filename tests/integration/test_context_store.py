"""What any ContextStore does: one suite, held against memory and Postgres."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from app.conversation.context_store import Context, ContextId, ContextStore, HeldContext
from app.conversation.records import Paging, ResponseId, ResponseStore, TenantId, Turn
from app.errors import InvalidRequest, NotFound
from app.store.contexts import PostgresContextStore
from app.store.database import Database
from app.store.memory import MemoryResponseStore
from app.store.memory_contexts import MemoryContextStore
from tests.integration.stored_turns import NOW, checkpoint, saved

HOUR = timedelta(hours=1)


@pytest.fixture
def contexts(request: pytest.FixtureRequest, store: ResponseStore) -> ContextStore:
    if isinstance(store, MemoryResponseStore):
        return MemoryContextStore(store)
    database: Database = request.getfixturevalue("database")
    return PostgresContextStore(database)


def context(of: Turn, letter: str = "a", *, at: int = 0, **changes: Any) -> Context:
    """at: microseconds after NOW. It expires an hour after NOW."""
    made = Context(
        id=ContextId(f"ctx_{letter}"),
        tenant=of.response.tenant,
        name="a name",
        response_id=of.response.id,
        created_at=NOW + timedelta(microseconds=at),
        expires_at=NOW + HOUR,
        ttl_s=3600,
        prompt={"instructions": "a\x00b", "tools": [{"z": 1, "a": 2}]},
    )
    return replace(made, **changes)


async def added(
    contexts: ContextStore, store: ResponseStore, tenant: TenantId, letter: str = "a", **changes: Any
) -> Context:
    made = context(await saved(store, tenant, letter), letter, **changes)
    await contexts.add(made)
    return made


async def held(contexts: ContextStore, of: Context) -> HeldContext | None:
    return await contexts.get(of.tenant, of.id, NOW)


async def test_a_context_comes_back_as_it_was(
    contexts: ContextStore, store: ResponseStore, tenant: TenantId
) -> None:
    turn = await saved(store, tenant, "a")
    made = context(turn)
    await contexts.add(made)
    found = await held(contexts, made)
    assert found == HeldContext(made, turn.response.body, checkpoint("a").expires_at)
    assert list(found.context.prompt["tools"][0]) == ["z", "a"]


async def test_without_a_checkpoint_nothing_is_kept(
    contexts: ContextStore, store: ResponseStore, tenant: TenantId
) -> None:
    made = context(await saved(store, tenant, "a", cached=False))
    await contexts.add(made)
    found = await held(contexts, made)
    assert found is not None
    assert found.kept_until is None


async def test_a_context_needs_its_response(
    contexts: ContextStore, store: ResponseStore, tenant: TenantId
) -> None:
    turn = await saved(store, tenant, "a")
    await store.delete(tenant, turn.response.id)
    with pytest.raises(NotFound):
        await contexts.add(context(turn))


async def test_it_is_there_until_it_expires(
    contexts: ContextStore, store: ResponseStore, tenant: TenantId
) -> None:
    made = await added(contexts, store, tenant)
    last = made.expires_at - timedelta(microseconds=1)
    assert await contexts.get(tenant, made.id, last) is not None
    assert await contexts.get(tenant, made.id, made.expires_at) is None
    assert (await contexts.page(tenant, Paging(), None, made.expires_at)).contexts == ()
    assert await contexts.useless(tenant, last, 9) == []
    assert await contexts.useless(tenant, made.expires_at, 9) == [(made.id, made.response_id)]
    await contexts.remove(tenant, made.id)
    assert await contexts.useless(tenant, made.expires_at, 9) == []
    assert await store.get(tenant, made.response_id) is not None


async def test_renewing_never_shortens_its_life(
    contexts: ContextStore, store: ResponseStore, tenant: TenantId
) -> None:
    made = await added(contexts, store, tenant)
    await contexts.renew(tenant, made.id, NOW + 2 * HOUR, 7200)
    await contexts.renew(tenant, made.id, NOW + timedelta(minutes=1), 60)
    found = await held(contexts, made)
    assert found is not None
    assert (found.context.expires_at, found.context.ttl_s) == (NOW + 2 * HOUR, 7200)


async def test_it_is_gone_with_its_response(
    contexts: ContextStore, store: ResponseStore, tenant: TenantId
) -> None:
    """Removed, or a tombstone for the conversations that began from it."""
    alone, continued = [await added(contexts, store, tenant, letter) for letter in "ab"]
    parent = await store.parent(tenant, continued.response_id)
    assert parent is not None
    await saved(store, tenant, "c", Turn(parent.response, (), (), None))
    for made in (alone, continued):
        await store.delete(tenant, made.response_id)
        assert await held(contexts, made) is None
    assert (await contexts.page(tenant, Paging(), None, NOW)).contexts == ()
    assert (continued.id, continued.response_id) in await contexts.useless(tenant, NOW, 9)


async def test_no_tenant_sees_anothers(
    contexts: ContextStore, store: ResponseStore, tenant: TenantId
) -> None:
    made = await added(contexts, store, tenant)
    other = TenantId(f"{tenant}_other")
    assert await contexts.get(other, made.id, NOW) is None
    assert (await contexts.page(other, Paging(), None, NOW)).contexts == ()
    await contexts.renew(other, made.id, NOW + 2 * HOUR, 7200)
    await contexts.remove(other, made.id)
    await contexts.keep(other, made.response_id, checkpoint("new"))
    assert await contexts.useless(other, NOW + 2 * HOUR, 9) == []
    found = await held(contexts, made)
    assert found is not None
    assert (found.context, found.kept_until) == (made, checkpoint("a").expires_at)


async def test_pages_by_age_and_name(contexts: ContextStore, store: ResponseStore, tenant: TenantId) -> None:
    for age, letter in enumerate("abcd"):
        await added(contexts, store, tenant, letter, at=age, name="even" if age % 2 == 0 else None)

    async def ids(paging: Paging, name: str | None = None) -> tuple[str, bool]:
        page = await contexts.page(tenant, paging, name, NOW)
        return "".join(held.context.id.removeprefix("ctx_") for held in page.contexts), page.more

    assert await ids(Paging()) == ("dcba", False)
    assert await ids(Paging(limit=2, ascending=True)) == ("ab", True)
    assert await ids(Paging(limit=2, ascending=True, after="ctx_b")) == ("cd", False)
    assert await ids(Paging(limit=2, after="ctx_d")) == ("cb", True)
    assert await ids(Paging(), "even") == ("ca", False)
    assert await ids(Paging(after="ctx_c"), "even") == ("a", False)
    assert await ids(Paging(), "nobody") == ("", False)
    for after, name in (("ctx_nope", None), ("a\x00", None), ("\ud800", None), ("ctx_b", "even")):
        with pytest.raises(InvalidRequest) as caught:
            await ids(Paging(after=after), name)
        assert caught.value.param == "after"


@pytest.mark.parametrize("context_id", ["ctx_b", "", "a\x00", "\ud800", "x" * 5000])
async def test_unknown_ids(
    contexts: ContextStore, store: ResponseStore, tenant: TenantId, context_id: str
) -> None:
    await added(contexts, store, tenant)
    assert await contexts.get(tenant, ContextId(context_id), NOW) is None


async def test_a_checkpoint_is_kept_for_the_one_before(
    contexts: ContextStore, store: ResponseStore, tenant: TenantId
) -> None:
    made = await added(contexts, store, tenant)
    new = replace(checkpoint("new"), expires_at=NOW + 3 * HOUR)
    await store.save_seed(tenant, made.response_id, b"seed")
    await contexts.keep(tenant, made.response_id, new)
    parent = await store.parent(tenant, made.response_id)
    assert parent is not None
    assert parent.checkpoint == new
    assert await store.seeds(tenant, made.response_id) == [b"seed"]


async def test_a_checkpoint_is_kept_where_there_was_none(
    contexts: ContextStore, store: ResponseStore, tenant: TenantId
) -> None:
    made = context(await saved(store, tenant, "a", cached=False))
    await contexts.add(made)
    await contexts.keep(tenant, made.response_id, checkpoint("new"))
    found = await held(contexts, made)
    assert found is not None
    assert found.kept_until == checkpoint("new").expires_at


async def test_what_is_deleted_is_given_no_checkpoint(
    contexts: ContextStore, store: ResponseStore, tenant: TenantId
) -> None:
    first = await saved(store, tenant, "a")
    second = await saved(store, tenant, "b", first)
    await store.delete(tenant, first.response.id)
    await contexts.keep(tenant, first.response.id, checkpoint("new"))
    await contexts.keep(tenant, ResponseId("never"), checkpoint("new"))
    # Seeds go with checkpoints.
    await store.save_seed(tenant, first.response.id, b"seed")
    assert await store.seeds(tenant, second.response.id) == []
    assert await store.delete(tenant, second.response.id) == [second.checkpoint]
    assert await store.get(tenant, first.response.id) is None
