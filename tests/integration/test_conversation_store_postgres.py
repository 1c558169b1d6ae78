"""What of conversations only Postgres can get wrong: atomicity, races, work that grows with their length."""

import asyncio
import re

import pytest
from sqlalchemy import text

from app.conversation.records import Appended, ResponseId, TenantId
from app.errors import ConversationBusy, StoreUnavailable
from app.store.conversations import PostgresConversationStore
from app.store.database import Database
from app.store.responses import PostgresResponseStore
from tests.integration.statements import plans, statements
from tests.integration.test_conversation_store import CONVERSATION, Stores, Talk, items
from tests.integration.test_response_store_postgres import started


@pytest.fixture
def talk(database: Database, tenant: TenantId) -> Talk:
    stores = Stores(PostgresResponseStore(database), PostgresConversationStore(database))
    return Talk(stores, tenant)


async def test_a_turns_statements_do_not_grow_with_the_conversation(talk: Talk, database: Database) -> None:
    await talk.begin()
    last = None
    for n in range(30):
        with statements(database) as seen:
            await talk.take("lease")
            await talk.stands()
            last = await talk.commit(f"r{n}", f"q{n}", f"o{n}", after=last)
        assert seen == ["UPDATE", "WITH", "UPDATE", "INSERT", "WITH", "COMMIT"]


OTHERS = """
WITH others AS (
  INSERT INTO conversations (tenant_id, id, created_at, metadata, next_position)
  SELECT :tenant, 'conv_' || n, now(), '{}', 100 FROM generate_series(2, 500) AS n
)
INSERT INTO conversation_items (tenant_id, conversation_id, position, item, item_id)
SELECT :tenant, 'conv_' || n, p, '{}', p::text FROM generate_series(2, 500) AS n, generate_series(0, 99) AS p
"""


async def test_where_it_stands_is_found_by_its_end(talk: Talk, database: Database) -> None:
    await talk.begin()
    await database.write(text(OTHERS), {"tenant": talk.tenant})
    last = None
    for n in range(100):
        names = [f"{n}_{place}" for place in range(20)]
        last = await talk.turn(f"r{n}", *names, after=last)
    await talk.add("b")
    standing = talk.store.standing(talk.tenant, CONVERSATION, ["b", "c"])
    (plan,) = await plans(database, standing, options="(ANALYZE, COSTS OFF, TIMING OFF)")
    assert "Seq Scan on conversation_items" not in plan, plan
    rows = [int(found) for found in re.findall(r"actual rows=(\d+)", plan)]
    assert max(rows) <= 2, plan


async def test_of_many_who_take_it_at_once_one_has_it(talk: Talk) -> None:
    await talk.begin()
    takes = (talk.take(f"lease {n}") for n in range(20))
    found = await asyncio.gather(*takes, return_exceptions=True)
    assert sum(result is None for result in found) == 1
    assert sum(isinstance(result, ConversationBusy) for result in found) == 19


async def test_items_that_come_at_once_each_get_a_place(talk: Talk) -> None:
    await talk.begin()
    await asyncio.gather(*(talk.add(f"{n} a", f"{n} b") for n in range(15)))
    names = await talk.names()
    assert [name[-1] for name in names] == ["a", "b"] * 15
    assert all(a.split()[0] == b.split()[0] for a, b in zip(names[::2], names[1::2], strict=True))


async def test_a_turn_that_cannot_be_saved_is_not_in_its_conversation(talk: Talk) -> None:
    await talk.begin("a")
    await talk.turn("r1", "q1")
    await talk.take()
    with pytest.raises(Exception, match="responses"):
        await talk.commit("r1", "q2")
    assert await talk.names() == ["a", "q1"]
    await talk.commit("r2", "q2")
    assert await talk.stands() == ("r2", [], None)


async def test_a_commit_that_is_cancelled_leaves_nothing(talk: Talk, database: Database) -> None:
    await talk.begin("a")
    await talk.take()
    async with database.transaction() as other:
        await other.execute(text("LOCK TABLE responses IN EXCLUSIVE MODE"))
        commit = await started(talk.commit("r1", "q1"), database)
        commit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await commit
    assert await talk.names() == ["a"]
    with pytest.raises(ConversationBusy):
        await talk.take("yours")
    await talk.commit("r1", "q1")


async def test_who_comes_during_a_commit_waits_for_all_of_it(talk: Talk, database: Database) -> None:
    await talk.begin()
    await talk.take()
    async with database.transaction() as other:
        await other.execute(text("LOCK TABLE responses IN EXCLUSIVE MODE"))
        commit = await started(talk.commit("r1", "q1", "o1"), database)
        for work in (talk.take("yours"), talk.add("b")):
            with pytest.raises(ConversationBusy):
                await work
        assert await talk.names() == []
    await commit
    await talk.take("yours")
    assert await talk.stands() == ("r1", [], None)


async def test_a_lease_that_expires_during_its_commit_is_not_taken(talk: Talk, database: Database) -> None:
    """Whoever finds it expired waits for the commit, and then finds it free."""
    await talk.begin()
    await talk.take("mine", -1)
    async with database.transaction() as other:
        await other.execute(text("LOCK TABLE responses IN EXCLUSIVE MODE"))
        commit = await started(talk.commit("r1", "q1", lease="mine"), database)
        take = await started(talk.take("yours"), database)
        assert not take.done()
    await commit
    await take
    assert await talk.stands() == ("r1", [], None)


async def test_a_conversation_that_is_deleted_during_a_turn_takes_no_more(
    talk: Talk, database: Database
) -> None:
    await talk.begin()
    await talk.take("mine", -1)
    await talk.store.delete(talk.tenant, CONVERSATION)
    with pytest.raises(ConversationBusy):
        await talk.commit("r1", "q1", lease="mine")
    with pytest.raises(ConversationBusy):
        await talk.store.append(talk.tenant, Appended(CONVERSATION, "mine", items("q1")))
    assert await talk.stores.responses.get(talk.tenant, ResponseId("r1")) is None


async def test_a_database_that_is_gone(tenant: TenantId) -> None:
    gone = Database("postgresql://nobody@127.0.0.1:1/none")
    store = PostgresConversationStore(gone)
    for work in (store.take(tenant, CONVERSATION, "lease", 1), store.get(tenant, CONVERSATION)):
        with pytest.raises(StoreUnavailable):
            await work
    await gone.close()
