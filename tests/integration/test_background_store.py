"""What Postgres keeps of responses in the background: one attempt at a time writes, and one ending wins."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from app.conversation.background_store import Claim, Superseded
from app.conversation.output import Event
from app.conversation.records import Paging, ResponseId, TenantId, Turn
from app.store.background import PAGE_EVENTS, PostgresBackgroundStore
from app.store.database import Database
from app.store.responses import PostgresResponseStore
from tests.integration.stored_turns import turn


def events(first: int, count: int = 1, kind: str = "response.output_text.delta") -> list[Event]:
    return [{"type": kind, "sequence_number": n, "delta": f"{n}\x00"} for n in range(first, first + count)]


class Kept:
    """A response in the background, with what a test does to it."""

    def __init__(self, database: Database, tenant: TenantId, name: str) -> None:
        self.store = PostgresBackgroundStore(database)
        self.responses = PostgresResponseStore(database)
        self.tenant = tenant
        self.id = ResponseId(name)
        self.turn = turn(tenant, name, status="completed")

    async def create(self) -> None:
        response = replace(self.turn.response, body={**self.turn.response.body, "status": "queued"})
        begun = Turn(response, self.turn.input_items, (), None)
        await self.store.create(begun, "sealed", events(0, 2))

    async def claim(self) -> Claim:
        claim = await self.store.claim(self.tenant, self.id)
        assert claim is not None
        return claim

    async def status(self) -> str:
        found = await self.responses.get(self.tenant, self.id)
        assert found is not None
        return str(found[0].body["status"])

    async def numbers(self, after: int = -1) -> list[int]:
        page = await self.store.log(self.tenant, self.id, after)
        assert page is not None
        return [event["sequence_number"] for event in page.events]


@pytest.fixture
async def kept(database: Database, tenant: TenantId) -> Kept:
    kept = Kept(database, tenant, "resp_1")
    await kept.create()
    return kept


async def test_what_is_created_is_there_before_it_is_made(kept: Kept) -> None:
    assert await kept.status() == "queued"
    page = await kept.responses.input_items(kept.tenant, kept.id, Paging(ascending=True))
    assert page is not None
    assert page.items == kept.turn.input_items
    log = await kept.store.log(kept.tenant, kept.id, -1)
    assert log is not None
    assert (list(log.events), log.last, log.ended) == (events(0, 2), 1, False)
    assert await kept.store.log(TenantId("stranger"), kept.id, -1) is None
    assert await kept.store.claim(TenantId("stranger"), kept.id) is None


async def test_a_claim_has_all_that_an_attempt_needs(kept: Kept) -> None:
    claim = await kept.claim()
    assert (claim.attempt, claim.tries, claim.waits, claim.request) == (1, 1, 0, "sealed")
    assert (list(claim.events), claim.created_at) == (events(0, 2), kept.turn.response.created_at)
    assert await kept.status() == claim.body["status"] == "in_progress"


async def test_the_last_attempt_alone_writes(kept: Kept) -> None:
    first = await kept.claim()
    await kept.store.append(first, events(2))
    second = await kept.claim()
    assert [event["sequence_number"] for event in second.events] == [0, 1, 2]
    for write in (
        kept.store.append(first, events(3)),
        kept.store.append(first, ()),
        kept.store.save(first, kept.turn, events(3)),
        kept.store.fail(first, {}, events(3)),
    ):
        with pytest.raises(Superseded):
            await write
    await kept.store.release(first, tries=0, waits=0)
    await kept.store.append(second, events(3))
    assert await kept.numbers() == [0, 1, 2, 3]


async def test_events_written_twice_are_there_once(kept: Kept) -> None:
    claim = await kept.claim()
    await kept.store.append(claim, events(2, 3))
    await kept.store.append(claim, events(2, 5))
    assert await kept.numbers() == list(range(7))
    assert await kept.numbers(after=4) == [5, 6]


async def test_the_next_attempt_has_the_token_ids_of_the_last_ones(kept: Kept) -> None:
    claim = await kept.claim()
    assert claim.sampled == ()
    await kept.store.append(claim, events(2, 3), {3: [70_000, 1], 4: [2]})
    # It is not known whether it was written.
    await kept.store.append(claim, events(2, 4), {3: [70_000, 1], 4: [2], 5: [3]})
    again = await kept.claim()
    assert again.sampled == (70_000, 1, 2, 3)
    await kept.store.append(again, events(6, 5), {7: [4], 10: [5]})
    assert (await kept.claim()).sampled == (70_000, 1, 2, 3, 4, 5)


async def test_a_turn_is_committed_with_its_last_events(kept: Kept) -> None:
    claim = await kept.claim()
    await kept.store.save(claim, kept.turn, events(2, 2))
    found = await kept.responses.parent(kept.tenant, kept.id)
    assert found is not None
    assert (found.response, found.output_items, found.checkpoint) == (
        kept.turn.response,
        kept.turn.output_items,
        kept.turn.checkpoint,
    )
    log = await kept.store.log(kept.tenant, kept.id, 2)
    assert log is not None
    assert (len(log.events), log.last, log.ended) == (1, 3, True)
    assert await kept.store.claim(kept.tenant, kept.id) is None
    with pytest.raises(Superseded):
        await kept.store.save(claim, kept.turn, events(4))
    with pytest.raises(Superseded):
        await kept.store.append(claim, events(4))


async def test_a_turn_may_have_more_input_than_was_known(kept: Kept) -> None:
    """Of a conversation, what was added to it meanwhile."""
    more = {**kept.turn.input_items[0], "id": "msg_added"}
    turn = replace(kept.turn, input_items=(more, *kept.turn.input_items))
    await kept.store.save(await kept.claim(), turn, events(2))
    page = await kept.responses.input_items(kept.tenant, kept.id, Paging(ascending=True))
    assert page is not None
    assert page.items == turn.input_items


async def test_a_failed_response_keeps_no_turn(kept: Kept) -> None:
    claim = await kept.claim()
    await kept.store.fail(claim, {**claim.body, "status": "failed"}, events(2))
    assert (await kept.status(), await kept.numbers()) == ("failed", [0, 1, 2])
    assert await kept.store.claim(kept.tenant, kept.id) is None


async def test_a_released_response_is_claimed_again(kept: Kept) -> None:
    claim = await kept.claim()
    await kept.store.release(claim, tries=0, waits=3)
    with pytest.raises(Superseded):
        await kept.store.append(claim, events(2))
    again = await kept.claim()
    assert (again.attempt, again.tries, again.waits) == (2, 1, 3)


async def test_a_cancelled_response_is_written_by_nobody(kept: Kept) -> None:
    claim = await kept.claim()
    for _ in range(2):
        await kept.store.cancel(kept.tenant, kept.id)
        assert await kept.status() == "cancelled"
    with pytest.raises(Superseded):
        await kept.store.save(claim, kept.turn, events(2))
    assert await kept.store.claim(kept.tenant, kept.id) is None
    log = await kept.store.log(kept.tenant, kept.id, 1)
    assert log is not None
    assert (log.events, log.ended) == ((), True)
    await kept.store.cancel(kept.tenant, ResponseId("resp_unknown"))


@pytest.mark.parametrize("round_", range(8))
async def test_of_an_end_and_a_cancellation_one_wins(kept: Kept, round_: int) -> None:
    claim = await kept.claim()
    saved, _, _ = await asyncio.gather(
        kept.store.save(claim, kept.turn, events(2)),
        kept.store.cancel(kept.tenant, kept.id),
        kept.store.cancel(kept.tenant, kept.id),
        return_exceptions=True,
    )
    won = not isinstance(saved, Superseded)
    assert await kept.status() == ("completed" if won else "cancelled")
    found = await kept.responses.get(kept.tenant, kept.id)
    assert found is not None
    assert bool(found[1]) is won
    assert await kept.numbers() == ([0, 1, 2] if won else [0, 1])


@pytest.mark.parametrize("round_", range(4))
async def test_of_two_attempts_that_end_at_once_one_commits(kept: Kept, round_: int) -> None:
    first, second = await kept.claim(), await kept.claim()
    ends = (kept.store.save(claim, kept.turn, events(2)) for claim in (first, second))
    results = await asyncio.gather(*ends, return_exceptions=True)
    assert [isinstance(result, Superseded) for result in results] == [True, False]


async def test_a_deletion_takes_the_log_with_it(kept: Kept, database: Database) -> None:
    claim = await kept.claim()
    assert await kept.responses.delete(kept.tenant, kept.id) == []
    assert await kept.store.log(kept.tenant, kept.id, -1) is None
    with pytest.raises(Superseded):
        await kept.store.append(claim, events(2))
    with pytest.raises(Superseded):
        await kept.store.save(claim, kept.turn, events(2))


async def test_a_tombstone_has_no_log(kept: Kept, database: Database) -> None:
    await kept.store.save(await kept.claim(), kept.turn, events(2))
    child = turn(kept.tenant, "resp_2", after=kept.turn)
    await kept.responses.save(child)
    await kept.responses.delete(kept.tenant, kept.id)
    assert await kept.store.log(kept.tenant, kept.id, -1) is None
    left = text("SELECT count(*) FROM response_events WHERE tenant_id = :tenant")
    async with database.reading() as connection:
        assert (await connection.execute(left, {"tenant": kept.tenant})).scalar_one() == 0
    assert len(await kept.responses.history(kept.tenant, child.response.id)) == 2


async def test_a_deletion_and_an_end_do_not_wait_for_each_other_forever(kept: Kept) -> None:
    claim = await kept.claim()
    results: list[Any] = await asyncio.gather(
        kept.store.save(claim, kept.turn, events(2)),
        kept.responses.delete(kept.tenant, kept.id),
        return_exceptions=True,
    )
    assert results[0] is None or isinstance(results[0], Superseded)
    assert isinstance(results[1], list)
    assert await kept.responses.get(kept.tenant, kept.id) is None


async def test_a_long_log_comes_in_pages(kept: Kept) -> None:
    claim = await kept.claim()
    await kept.store.append(claim, events(2, PAGE_EVENTS))
    assert await kept.numbers() == list(range(PAGE_EVENTS))
    assert await kept.numbers(after=PAGE_EVENTS - 1) == [PAGE_EVENTS, PAGE_EVENTS + 1]


async def test_what_has_not_ended_is_found(kept: Kept) -> None:
    key = (kept.tenant, kept.id, None)
    assert key in await kept.store.unended(0, 100)
    assert key not in await kept.store.unended(10**9, 100)
    assert len(await kept.store.unended(0, 1)) == 1
    await kept.store.cancel(kept.tenant, kept.id)
    assert key not in await kept.store.unended(0, 100)


async def test_one_sweeps_at_a_time(kept: Kept, database: Database) -> None:
    other = PostgresBackgroundStore(database)
    async with kept.store.sweeping() as mine, other.sweeping() as theirs:
        assert (mine, theirs) == (True, False)
    async with other.sweeping() as theirs:
        assert theirs
