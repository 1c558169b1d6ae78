"""Attempts at a response in the background, where what they need is not there."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from app.conversation import attempts
from app.conversation.attempts import Attempts
from app.conversation.background_store import Claim, Sampled
from app.conversation.engine import Delta
from app.conversation.output import Event
from app.conversation.records import DEFAULT_TENANT, ResponseId, TenantId, Turn
from app.conversation.request_json import pack
from app.conversation.sealing import Sealing
from app.errors import StoreUnavailable
from tests.unit.conversation.test_conversations import Talk
from tests.unit.conversation.test_turns import Chat, request

CREATED: Event = {"type": "response.created", "sequence_number": 0, "response": {}}


class OneJob:
    """A store of one response. saves: how often its commit can be tried in vain."""

    def __init__(self, sealed: str, saves: float = 0) -> None:
        self.log: dict[int, Event] = {0: CREATED}
        self.sampled: dict[int, Sequence[int]] = {}
        self.saves = saves
        self.claimed = Claim(
            tenant=DEFAULT_TENANT,
            id=ResponseId("resp_1"),
            attempt=1,
            tries=1,
            waits=0,
            created_at=datetime.now(UTC),
            body={"id": "resp_1", "status": "in_progress"},
            request=sealed,
            events=(CREATED,),
        )

    async def claim(self, tenant: TenantId, response_id: ResponseId) -> Claim:
        return self.claimed

    async def append(self, claim: Claim, events: Sequence[Event], sampled: Sampled | None = None) -> None:
        numbers = {event["sequence_number"] for event in events}
        self.log |= {event["sequence_number"]: event for event in events}
        self.sampled |= {number: ids for number, ids in (sampled or {}).items() if number in numbers}

    async def save(self, claim: Claim, turn: Turn, events: Sequence[Event]) -> None:
        self.saves -= 1
        if self.saves >= 0:
            raise StoreUnavailable("gone")
        await self.append(claim, events)

    async def fail(self, claim: Claim, body: dict[str, Any], events: Sequence[Event]) -> None:
        await self.append(claim, events)

    async def release(self, claim: Claim, *, tries: int, waits: int) -> None:
        events = tuple(self.log[number] for number in sorted(self.log))
        sampled = tuple(i for number in sorted(self.sampled) for i in self.sampled[number])
        self.claimed = replace(claim, tries=tries + 1, waits=waits, events=events, sampled=sampled)

    def kinds(self) -> list[str]:
        assert [*self.log] == [*range(len(self.log))], "a gap"
        return [event["type"] for event in self.log.values()]


async def job(chat: Chat, made: Any, **more: Any) -> tuple[OneJob, Attempts]:
    sealing = Sealing(chat.store)
    sealed = (await sealing.requests()).seal(DEFAULT_TENANT, pack(made))
    store = OneJob(sealed, **more)
    return store, Attempts(store, chat.turns, sealing)


async def test_a_commit_that_fails_for_good_leaves_no_gap_in_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "STORE_PATIENCE_S", 0.0)
    monkeypatch.setattr(attempts, "CHECK_S", 0.01)
    chat = Chat()
    store, made = await job(chat, request(), saves=float("inf"))
    store.claimed = replace(store.claimed, waits=attempts.MOST_WAITS)
    assert await made.run(DEFAULT_TENANT, store.claimed.id) is None
    assert store.kinds()[-1] == "response.failed"
    assert len(store.kinds()) > 3


async def test_a_commit_that_is_late_is_the_last_event(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "CHECK_S", 0.01)
    store, made = await job(Chat(), request(), saves=2)
    assert await made.run(DEFAULT_TENANT, store.claimed.id) is None
    assert store.kinds()[-1] == "response.completed"


async def test_a_conversation_that_is_taken_puts_the_job_off() -> None:
    """Nothing waits in a job, which would keep others from running."""
    talk = Talk()
    await talk.begin()
    running = await talk.turns.start(talk.asked("q1"), DEFAULT_TENANT)
    store, made = await job(talk, talk.asked("q2"))
    waits = [
        await asyncio.wait_for(made.run(DEFAULT_TENANT, store.claimed.id), talk.leases._patience_s / 2)
        for _ in range(7)
    ]
    assert waits == [1, 2, 4, 8, 16, 30, 30]
    assert store.claimed.tries == 1, "it is no fault of the response's"
    await running.aclose()
    assert await made.run(DEFAULT_TENANT, store.claimed.id) is None
    assert store.kinds()[-1] == "response.completed"


async def test_an_attempt_goes_on_from_the_tokens_of_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those whose words can have been read, each once; a word may end in the token after."""
    monkeypatch.setattr(attempts, "FLUSH_S", 0.0)
    said = (Delta(sampled=(1, 2)), Delta(text="a"), Delta(sampled=(3,)), Delta(sampled=(4,)), Delta(text="b"))
    rest = (Delta(sampled=(5,)), Delta(text="c"), Delta(finish_reason="stop"))
    chat = Chat()
    store, made = await job(chat, request())
    chat.worker.deltas, chat.worker.breaks_off = (*said, Delta(sampled=(9,)), Delta()), True
    assert await made.run(DEFAULT_TENANT, store.claimed.id) == 1
    assert store.claimed.sampled == (1, 2, 3, 4)
    chat.worker.deltas = (*said, *rest[:2], Delta())
    assert await made.run(DEFAULT_TENANT, store.claimed.id) == 2
    assert store.claimed.sampled == (1, 2, 3, 4, 5)
    chat.worker.deltas, chat.worker.breaks_off = (*said, *rest), False
    assert await made.run(DEFAULT_TENANT, store.claimed.id) is None
    assert [asked.said for asked in chat.worker.generations] == [(), (1, 2, 3, 4), (1, 2, 3, 4, 5)]
    assert store.kinds()[-1] == "response.completed"
    assert store.log[max(store.log)]["response"]["output"][0]["content"][0]["text"] == "abc"


async def test_only_what_is_made_in_the_background_is_told_its_tokens() -> None:
    chat = Chat()
    await chat.response(request())
    assert [asked.said for asked in chat.worker.generations] == [None]
