"""Turns of conversations on in-memory stores: their order, their prompts, and what a failure leaves."""

import asyncio
from typing import Any

import pytest

from app.conversation.engine import Margin, Whole
from app.conversation.records import DEFAULT_TENANT, ConversationId, Item, Paging, TenantId
from app.errors import ConversationBusy, InvalidRequest, NotFound, StoreUnavailable
from app.store.memory import MemoryResponseStore
from app.store.memory_conversations import MemoryConversationStore
from tests.unit.conversation.test_turns import Chat, caching, request


def message(text: str, item_id: str) -> Item:
    return {
        "type": "message",
        "id": item_id,
        "role": "user",
        "content": [{"type": "input_text", "text": text}],
    }


def call(call_id: str) -> Item:
    return {
        "type": "function_call",
        "id": f"fc_{call_id}",
        "call_id": call_id,
        "name": "f",
        "arguments": "{}",
    }


def output(call_id: str) -> Item:
    return {"type": "function_call_output", "id": f"fco_{call_id}", "call_id": call_id, "output": "x"}


class Talk(Chat):
    """Turns of one conversation. `ask` asks with a message of that id, or without input."""

    conversation: ConversationId

    async def begin(self, *items: Item) -> None:
        made = await self.conversations.create(DEFAULT_TENANT, items, {})
        self.conversation = ConversationId(made["id"])

    def asked(self, item_id: str | None = None, **changes: Any) -> Any:
        given = (message("q", item_id),) if item_id else ()
        return request(conversation=self.conversation, input=given, **changes)

    async def ask(self, item_id: str | None = None, **changes: Any) -> dict[str, Any]:
        return await self.response(self.asked(item_id, **changes))

    async def names(self) -> list[str]:
        page = await self.conversations.items(DEFAULT_TENANT, self.conversation, Paging(100, ascending=True))
        return [item["id"] for item in page["data"]]

    async def add(self, *items: Item) -> None:
        await self.conversations.add(DEFAULT_TENANT, self.conversation, items)

    async def delete(self, item_id: str) -> None:
        await self.conversations.delete_item(DEFAULT_TENANT, self.conversation, item_id)

    @property
    def margin(self) -> list[str]:
        """Ids of what the last prompt sent as new."""
        prompt = self.worker.prompts[-1]
        sent = (*prompt.parent_output, *prompt.new_input) if isinstance(prompt, Margin) else prompt.new_input
        return [item["id"] for item in sent]


@pytest.fixture
async def talk() -> Talk:
    talk = Talk()
    await talk.begin()
    return talk


@pytest.fixture
async def refusing() -> Talk:
    talk = Talk(wait=False)
    await talk.begin()
    return talk


async def test_a_turn_goes_on_from_the_last_with_all_that_came_since(talk: Talk) -> None:
    first = await talk.ask("q1")
    assert caching(first) == ("full", "new_conversation")
    assert first["conversation"] == {"id": talk.conversation}
    assert first["previous_response_id"] is None
    await talk.add(message("by the way", "m1"))
    second = await talk.ask("q2")
    assert caching(second) == ("hit", None)
    answer = first["output"][0]["id"]
    assert talk.margin == [answer, "m1", "q2"]
    assert await talk.names() == ["q1", answer, "m1", "q2", second["output"][0]["id"]]
    history = await talk.store.history(DEFAULT_TENANT, second["id"])
    kept = [item["id"] for s in history for item in (*s.input_items, *s.output_items)]
    assert kept == await talk.names(), "the chain of responses has all of the conversation's items"


async def test_a_deletion_rewinds(talk: Talk) -> None:
    first = await talk.ask("q1")
    second = await talk.ask("q2")
    await talk.delete("q2")
    await talk.ask("q3")
    prompt = talk.worker.prompts[-1]
    assert isinstance(prompt, Margin)
    assert prompt.rewound == "items_deleted"
    assert talk.margin == [first["output"][0]["id"], second["output"][0]["id"], "q3"]
    await talk.delete("q1")
    assert caching(await talk.ask("q4")) == ("full", "items_deleted")
    prompt = talk.worker.prompts[-1]
    assert isinstance(prompt, Whole)
    assert (prompt.history, "q1" in talk.margin) == ((), False)


async def test_a_turn_that_is_not_stored_is_said_all_the_same(talk: Talk) -> None:
    first = await talk.ask("q1", store=False)
    assert await talk.names() == ["q1", first["output"][0]["id"]]
    assert await talk.store.get(DEFAULT_TENANT, first["id"]) is None
    assert caching(await talk.ask("q2")) == ("full", "new_conversation")
    assert talk.margin == ["q1", first["output"][0]["id"], "q2"]


async def test_without_input_there_has_to_be_a_question(talk: Talk) -> None:
    async def refused() -> bool:
        with pytest.raises(InvalidRequest, match="something to answer") as caught:
            await talk.ask()
        return caught.value.param == "input"

    assert await refused()
    await talk.add(message("q", "q1"))
    answered = await talk.ask()
    assert await talk.names() == ["q1", answered["output"][0]["id"]]
    assert await refused()
    await talk.add(message("q", "q2"), {**message("a", "a2"), "role": "assistant"})
    assert await refused()


async def test_calls_and_outputs_may_be_in_the_conversation(talk: Talk) -> None:
    await talk.add(message("q", "q1"), call("1"))
    with pytest.raises(InvalidRequest, match="No tool output") as caught:
        await talk.ask("q2")
    assert caught.value.param == "input"
    await talk.add(output("1"))
    assert (await talk.ask())["status"] == "completed"
    await talk.add(call("2"))
    answer = request(conversation=talk.conversation, input=(output("2"),))
    assert (await talk.response(answer))["status"] == "completed"
    await talk.delete("fc_2")
    with pytest.raises(InvalidRequest, match="No tool call") as caught:
        await talk.ask("q3")
    assert caught.value.param == "conversation"


async def test_an_id_stands_for_one_item(talk: Talk) -> None:
    await talk.ask("q1")
    with pytest.raises(InvalidRequest, match="'q1'") as caught:
        await talk.ask("q1")
    assert caught.value.param == "input[0].id"
    twice = request(conversation=talk.conversation, input=(message("a", "m"), message("b", "m")))
    with pytest.raises(InvalidRequest) as caught:
        await talk.response(twice)
    assert caught.value.param == "input[1].id"
    assert caching(await talk.ask("q2")) == ("hit", None), "nobody holds it"


async def test_nobody_elses_conversation(talk: Talk) -> None:
    for tenant, conversation in (
        (TenantId("other"), talk.conversation),
        (DEFAULT_TENANT, ConversationId("conv_0")),
    ):
        asked = request(conversation=conversation, input=(message("q", "q1"),))
        for work in (talk.turns.start, talk.turns.count):
            with pytest.raises(NotFound) as caught:
                await work(asked, tenant)
            assert caught.value.param == "conversation"


async def test_counting_waits_for_nobody(refusing: Talk) -> None:
    await refusing.ask("q1")
    running = await refusing.turns.start(refusing.asked("q2"), DEFAULT_TENANT)
    assert await refusing.turns.count(refusing.asked("q3"), DEFAULT_TENANT) == 2
    await running.aclose()


async def test_the_second_of_two_turns_waits(talk: Talk) -> None:
    running = await talk.turns.start(talk.asked("q1"), DEFAULT_TENANT)
    second = asyncio.create_task(talk.ask("q2"))
    adding = asyncio.create_task(talk.add(message("m", "m1")))
    # They have asked in vain by then, more than once.
    await asyncio.sleep(0.1)
    assert not second.done() and not adding.done()
    assert len(talk.worker.prompts) == 1
    assert [event async for together in running.events() for event in together]
    await asyncio.gather(second, adding)
    assert (await talk.names())[0] == "q1"
    assert set(await talk.names()) >= {"q2", "m1"}
    assert caching(second.result()) == ("hit", None)


async def test_the_second_of_two_turns_is_refused_before_it_costs_anything(refusing: Talk) -> None:
    running = await refusing.turns.start(refusing.asked("q1"), DEFAULT_TENANT)
    for work in (refusing.ask("q2"), refusing.add(message("m", "m1")), refusing.delete("q1")):
        with pytest.raises(ConversationBusy):
            await work
    with pytest.raises(ConversationBusy):
        await refusing.conversations.delete(DEFAULT_TENANT, refusing.conversation)
    assert len(refusing.worker.prompts) == 1
    await running.aclose()
    assert await refusing.names() == []
    assert caching(await refusing.ask("q2")) == ("full", "new_conversation")


async def test_a_turn_that_fails_leaves_it_as_it_was_and_free(refusing: Talk) -> None:
    await refusing.ask("q1")
    before = await refusing.names()
    refusing.worker.breaks_off = True
    assert (await refusing.ask("q2"))["status"] == "failed"
    refusing.worker.breaks_off = False
    assert await refusing.names() == before
    assert caching(await refusing.ask("q3")) == ("hit", None)


async def test_a_turn_that_is_cancelled_again_and_again_leaves_it_free(refusing: Talk) -> None:
    """As anyio does: whatever the cancelled task awaits from then on is cancelled too."""

    async def left_by_its_client() -> None:
        running = await refusing.turns.start(refusing.asked("q1"), DEFAULT_TENANT)
        events = running.events()
        await anext(events)
        try:
            await asyncio.sleep(60)
        finally:
            await running.aclose()

    task = asyncio.create_task(left_by_its_client())
    while not refusing.worker.running:  # noqa: ASYNC110
        await asyncio.sleep(0)
    while not task.done():
        task.cancel()
        await asyncio.sleep(0)
    await refusing.leases.aclose()
    assert refusing.worker.running == 0
    assert caching(await refusing.ask("q2")) == ("full", "new_conversation")


async def test_who_gives_up_waiting_holds_nothing(talk: Talk) -> None:
    running = await talk.turns.start(talk.asked("q1"), DEFAULT_TENANT)
    waiting = asyncio.create_task(talk.ask("q2"))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert [event async for together in running.events() for event in together]
    assert caching(await talk.ask("q3")) == ("hit", None)


@pytest.mark.parametrize("store", [True, False])
async def test_a_lease_that_was_lost_fails_the_turn(talk: Talk, store: bool) -> None:
    """The holder was away for so long that another took it."""
    running = await talk.turns.start(talk.asked("q1", store=store), DEFAULT_TENANT)
    kept = talk.store.conversations._kept[DEFAULT_TENANT, talk.conversation]
    assert kept.lease is not None
    await talk.store.conversations.renew(DEFAULT_TENANT, talk.conversation, kept.lease, -1)
    await talk.ask("q2")
    before = await talk.names()
    events = [event async for together in running.events() for event in together]
    assert events[-1]["type"] == "response.failed"
    assert isinstance(running.failure, ConversationBusy)
    assert await talk.names() == before
    assert await talk.store.get(DEFAULT_TENANT, running.id) is None


class Renewing(MemoryConversationStore):
    renewed = 0
    fails = True

    async def renew(self, *lease: Any) -> None:
        self.renewed += 1
        if self.fails:
            self.fails = False
            raise StoreUnavailable("gone for a moment")
        await super().renew(*lease)


async def test_a_lease_is_kept_alive_while_its_turn_runs() -> None:
    store = MemoryResponseStore()
    store.conversations = renewing = Renewing(lambda *_: True)
    talk = Talk(store, lease_s=0.03)
    await talk.begin()
    running = await talk.turns.start(talk.asked("q1"), DEFAULT_TENANT)
    while renewing.renewed < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    await running.aclose()
    before = renewing.renewed
    await asyncio.sleep(0.05)
    assert renewing.renewed == before


class Releasing(MemoryConversationStore):
    released = 0

    async def release(self, *lease: Any) -> None:
        self.released += 1
        await super().release(*lease)


@pytest.mark.parametrize("stored", [True, False])
async def test_what_the_commit_gave_back_is_not_given_back_again(stored: bool) -> None:
    store = MemoryResponseStore()
    store.conversations = releasing = Releasing(lambda *_: True)
    talk = Talk(store, wait=False)
    await talk.begin()
    await talk.ask("q1", store=stored)
    assert releasing.released == 0
    talk.worker.breaks_off = True
    await talk.ask("q2", store=stored)
    assert releasing.released == 1
