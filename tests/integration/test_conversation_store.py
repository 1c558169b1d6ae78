"""What any ConversationStore does: one suite, held against memory and Postgres."""

from dataclasses import dataclass, replace

import pytest

from app.conversation.conversation_store import ITEMS_DELETED, ConversationStore, StoredConversation
from app.conversation.records import (
    Appended,
    ConversationId,
    Item,
    Paging,
    ResponseId,
    ResponseStore,
    TenantId,
    Turn,
)
from app.errors import ConversationBusy, InvalidRequest, NotFound
from app.store.conversations import PostgresConversationStore
from app.store.database import Database
from app.store.memory import MemoryResponseStore
from app.store.responses import PostgresResponseStore
from tests.integration.stored_turns import NOW, message, turn

CONVERSATION = ConversationId("conv_1")
LEASE_S = 60.0


@dataclass
class Stores:
    responses: ResponseStore
    conversations: ConversationStore


@dataclass
class Talk:
    """One conversation of one tenant. Names of items and responses are ids."""

    stores: Stores
    tenant: TenantId

    @property
    def store(self) -> ConversationStore:
        return self.stores.conversations

    async def begin(self, *names: str) -> None:
        made = StoredConversation(CONVERSATION, self.tenant, NOW, {"zz": "1", "a": "ü"})
        await self.store.create(made, items(*names))

    async def take(self, lease: str = "lease", lease_s: float = LEASE_S) -> None:
        await self.store.take(self.tenant, CONVERSATION, lease, lease_s)

    async def add(self, *names: str) -> None:
        await self.store.add(self.tenant, CONVERSATION, items(*names))

    async def remove(self, name: str) -> None:
        await self.store.remove(self.tenant, CONVERSATION, name)

    async def names(self, paging: Paging = Paging(100, ascending=True)) -> list[str]:  # noqa: B008
        page = await self.store.items(self.tenant, CONVERSATION, paging)
        assert page is not None
        return [item["id"] for item in page.items]

    async def turn(self, name: str, *names: str, after: Turn | None = None, lease: str = "lease") -> Turn:
        """A stored turn that adds items, under a lease of its own."""
        await self.take(lease)
        return await self.commit(name, *names, after=after, lease=lease)

    async def commit(self, name: str, *names: str, after: Turn | None = None, lease: str = "lease") -> Turn:
        appended = Appended(CONVERSATION, lease, items(*names))
        made = replace(turn(self.tenant, name, after), appended=appended)
        await self.stores.responses.save(made)
        return made

    async def stands(self) -> tuple[str | None, list[str], str | None]:
        """Its head, what is pending, and why."""
        found = await self.store.standing(self.tenant, CONVERSATION, [])
        assert found is not None
        return found.head, [item["id"] for item in found.pending], found.changed


def items(*names: str) -> tuple[Item, ...]:
    return tuple(message("user", f"this is {name}", name) for name in names)


@pytest.fixture(params=["memory", "postgres"])
def stores(request: pytest.FixtureRequest) -> Stores:
    if request.param == "memory":
        memory = MemoryResponseStore()
        return Stores(memory, memory.conversations)
    database: Database = request.getfixturevalue("database")
    return Stores(PostgresResponseStore(database), PostgresConversationStore(database))


@pytest.fixture
def talk(stores: Stores, tenant: TenantId) -> Talk:
    return Talk(stores, tenant)


async def test_it_comes_back_as_it_was(talk: Talk) -> None:
    await talk.begin("a", "b")
    found = await talk.store.get(talk.tenant, CONVERSATION)
    assert found == StoredConversation(CONVERSATION, talk.tenant, NOW, {"zz": "1", "a": "ü"})
    assert await talk.names() == ["a", "b"]
    assert await talk.store.item(talk.tenant, CONVERSATION, "b") == items("b")[0]
    assert await talk.store.item(talk.tenant, CONVERSATION, "c") is None


async def test_items_survive_exactly(talk: Talk) -> None:
    await talk.begin()
    odd: Item = {"type": "message", "zz": "a\x00b", "id": "m", "content": [{"b": 1e22, "a": None}]}
    await talk.store.add(talk.tenant, CONVERSATION, [odd])
    assert repr(await talk.store.item(talk.tenant, CONVERSATION, "m")) == repr(odd)
    found = await talk.store.standing(talk.tenant, CONVERSATION, ["m", "n"])
    assert found is not None
    assert (repr(found.pending), found.known) == (repr((odd,)), frozenset({"m"}))


async def test_metadata_is_replaced(talk: Talk) -> None:
    await talk.begin()
    changed = await talk.store.relabel(talk.tenant, CONVERSATION, {"k": "v"})
    assert changed is not None and changed.metadata == {"k": "v"}
    assert await talk.store.get(talk.tenant, CONVERSATION) == changed
    assert await talk.store.relabel(talk.tenant, ConversationId("conv_2"), {}) is None


async def test_pages(talk: Talk) -> None:
    await talk.begin(*"abcde")
    assert await talk.names(Paging(2, ascending=True)) == ["a", "b"]
    assert await talk.names(Paging(2, ascending=True, after="b")) == ["c", "d"]
    assert await talk.names(Paging(2)) == ["e", "d"]
    assert await talk.names(Paging(4, after="e")) == ["d", "c", "b", "a"]
    page = await talk.store.items(talk.tenant, CONVERSATION, Paging(4))
    assert page is not None and page.more
    with pytest.raises(InvalidRequest) as caught:
        await talk.names(Paging(2, after="nope"))
    assert caught.value.param == "after"


async def test_an_id_stands_for_one_item(talk: Talk) -> None:
    await talk.begin("a", "b")
    with pytest.raises(InvalidRequest, match="'b'") as caught:
        await talk.add("c", "b")
    assert caught.value.param == "items[1].id"
    assert await talk.names() == ["a", "b"], "all or none"
    await talk.add("c")
    await talk.remove("b")
    await talk.add("b")
    assert await talk.names() == ["a", "c", "b"]


async def test_a_turn_becomes_the_head_and_covers_what_was_pending(talk: Talk) -> None:
    await talk.begin("a")
    assert await talk.stands() == (None, ["a"], None)
    first = await talk.turn("r1", "q1", "o1")
    assert await talk.stands() == ("r1", [], None)
    await talk.add("b")
    assert await talk.stands() == ("r1", ["b"], None)
    await talk.turn("r2", "q2", "o2", after=first)
    assert await talk.stands() == ("r2", [], None)
    assert await talk.names() == ["a", "q1", "o1", "b", "q2", "o2"]


async def test_what_is_not_stored_is_pending(talk: Talk) -> None:
    await talk.begin()
    await talk.turn("r1", "q1", "o1")
    await talk.take()
    await talk.store.append(talk.tenant, Appended(CONVERSATION, "lease", items("q2", "o2")))
    assert await talk.stands() == ("r1", ["q2", "o2"], None)
    await talk.take()


@pytest.mark.parametrize(
    ("removed", "head", "pending", "changed"),
    [
        ("c", "r3", [], None),
        ("o3", "r2", ["b", "q3"], ITEMS_DELETED),
        ("q3", "r2", ["b", "o3"], ITEMS_DELETED),
        ("b", "r2", ["q3", "o3"], ITEMS_DELETED),
        ("o2", "r1", ["q2", "b", "q3", "o3"], ITEMS_DELETED),
        ("o1", None, ["a", "q1", "q2", "o2", "b", "q3", "o3"], ITEMS_DELETED),
        ("a", None, ["q1", "o1", "q2", "o2", "b", "q3", "o3"], ITEMS_DELETED),
    ],
)
async def test_a_deletion_goes_back_to_the_last_response_before_it(
    talk: Talk, removed: str, head: str | None, pending: list[str], changed: str | None
) -> None:
    await talk.begin("a")
    first = await talk.turn("r1", "q1", "o1")
    second = await talk.turn("r2", "q2", "o2", after=first)
    await talk.add("b")
    await talk.turn("r3", "q3", "o3", after=second)
    await talk.add("c")
    await talk.remove(removed)
    rest = ["c"] if removed != "c" else []
    assert await talk.stands() == (head, pending + rest, changed)
    assert removed not in await talk.names()
    await talk.turn("r4", "q4")
    assert await talk.stands() == ("r4", [], None), "forgotten once a turn was committed"


async def test_a_turn_that_adds_nothing_covers_nothing(talk: Talk) -> None:
    await talk.begin("a")
    await talk.turn("r1", "q1", "o1")
    await talk.remove("o1")
    await talk.turn("r2")
    assert await talk.stands() == (None, ["a", "q1"], ITEMS_DELETED)


async def test_a_response_that_was_deleted_is_no_head(talk: Talk) -> None:
    await talk.begin()
    first = await talk.turn("r1", "q1", "o1")
    second = await talk.turn("r2", "q2", "o2", after=first)
    await talk.turn("r3", "q3", "o3", after=second)
    assert await talk.stores.responses.delete(talk.tenant, ResponseId("r2")) is not None
    assert await talk.stands() == ("r3", [], None), "its child goes on"
    assert await talk.stores.responses.delete(talk.tenant, ResponseId("r3")) is not None
    assert await talk.stands() == ("r1", ["q2", "o2", "q3", "o3"], None)
    assert await talk.names() == ["q1", "o1", "q2", "o2", "q3", "o3"]


async def test_a_deleted_response_that_another_continues_is_no_head_either(talk: Talk) -> None:
    await talk.begin()
    first = await talk.turn("r1", "q1", "o1")
    await talk.stores.responses.save(turn(talk.tenant, "elsewhere", first))
    assert await talk.stores.responses.delete(talk.tenant, ResponseId("r1")) is not None
    assert await talk.stands() == (None, ["q1", "o1"], None)


async def test_one_holds_it_at_a_time_and_nobody_else_changes_it(talk: Talk) -> None:
    await talk.begin("a")
    await talk.take("mine")
    refused = [
        talk.take("yours"),
        talk.add("b"),
        talk.remove("a"),
        talk.store.delete(talk.tenant, CONVERSATION),
        talk.commit("r1", "q1", lease="yours"),
        talk.store.append(talk.tenant, Appended(CONVERSATION, "yours", items("q1"))),
    ]
    for work in refused:
        with pytest.raises(ConversationBusy) as caught:
            await work
        assert caught.value.param == "conversation"
    assert await talk.names() == ["a"]
    assert await talk.stores.responses.get(talk.tenant, ResponseId("r1")) is None, "together or not at all"
    await talk.store.release(talk.tenant, CONVERSATION, "yours")
    with pytest.raises(ConversationBusy):
        await talk.take("yours")
    await talk.store.release(talk.tenant, CONVERSATION, "mine")
    await talk.take("yours")


async def test_a_lease_that_expired_is_void_once_somebody_else_came(talk: Talk) -> None:
    await talk.begin()
    await talk.take("first", -1)
    await talk.turn("r1", "q1", lease="second")
    with pytest.raises(ConversationBusy, match="changed while"):
        await talk.commit("r2", "q2", lease="first")
    await talk.take("third", -1)
    await talk.add("b")
    with pytest.raises(ConversationBusy, match="changed while"):
        await talk.commit("r2", "q2", lease="third")
    assert await talk.names() == ["q1", "b"]


async def test_a_lease_that_expired_holds_where_nobody_came(talk: Talk) -> None:
    await talk.begin()
    await talk.take("mine", -1)
    await talk.commit("r1", "q1", lease="mine")
    assert await talk.stands() == ("r1", [], None)


async def test_a_lease_is_renewed_by_its_holder_alone(talk: Talk) -> None:
    await talk.begin()
    await talk.take("mine", -1)
    await talk.store.renew(talk.tenant, CONVERSATION, "yours", LEASE_S)
    await talk.take("yours", -1)
    await talk.store.renew(talk.tenant, CONVERSATION, "yours", LEASE_S)
    with pytest.raises(ConversationBusy):
        await talk.take("mine")


async def test_deleted_it_is_gone_with_its_items_and_its_responses_stay(talk: Talk) -> None:
    await talk.begin("a")
    await talk.turn("r1", "q1", "o1")
    await talk.store.delete(talk.tenant, CONVERSATION)
    assert await talk.store.get(talk.tenant, CONVERSATION) is None
    assert await talk.store.item(talk.tenant, CONVERSATION, "a") is None
    assert await talk.stores.responses.get(talk.tenant, ResponseId("r1")) is not None


@pytest.mark.parametrize("unknown", ["conv_2", "", "a\x00", "\ud800"], ids=repr)
async def test_unknown_ids(talk: Talk, unknown: str) -> None:
    await talk.begin("a")
    await nothing_there(talk, talk.tenant, ConversationId(unknown))
    with pytest.raises(NotFound) as caught:
        await talk.remove(unknown)
    assert caught.value.param == "item_id"
    assert await talk.store.item(talk.tenant, CONVERSATION, unknown) is None


async def test_a_tenant_sees_and_touches_nothing_of_another(talk: Talk) -> None:
    await talk.begin("a")
    other = TenantId("other")
    await nothing_there(talk, other, CONVERSATION)
    # Nor by the same ids.
    theirs = Talk(talk.stores, TenantId(f"{talk.tenant}_2"))
    await theirs.begin("a", "b")
    await talk.turn("r1", "q1")
    await theirs.take("lease")
    await theirs.store.release(talk.tenant, CONVERSATION, "lease")
    assert await theirs.stands() == (None, ["a", "b"], None)
    with pytest.raises(ConversationBusy):
        await theirs.take("another")
    await talk.store.delete(talk.tenant, CONVERSATION)
    assert await theirs.names() == ["a", "b"]


async def nothing_there(talk: Talk, tenant: TenantId, conversation_id: ConversationId) -> None:
    store = talk.store
    assert await store.get(tenant, conversation_id) is None
    assert await store.relabel(tenant, conversation_id, {}) is None
    assert await store.item(tenant, conversation_id, "a") is None
    assert await store.items(tenant, conversation_id, Paging()) is None
    assert await store.standing(tenant, conversation_id, ["a"]) is None
    await store.release(tenant, conversation_id, "lease")
    refused = [
        store.delete(tenant, conversation_id),
        store.add(tenant, conversation_id, items("x")),
        store.remove(tenant, conversation_id, "a"),
        store.take(tenant, conversation_id, "lease", LEASE_S),
    ]
    for work in refused:
        with pytest.raises(NotFound) as caught:
            await work  # type: ignore[misc]
        assert caught.value.param == "conversation_id"
    assert await talk.names() == ["a"]
