"""Contexts on stores in memory and a scripted engine: what is kept, how long, what is made ready again."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.conversation.context_store import ContextId, HeldContext
from app.conversation.contexts import Contexts, starting_from
from app.conversation.engine import Margin, PrefixMissed, Usage, Whole
from app.conversation.options import Options
from app.conversation.plan import Caching, TurnRequest
from app.conversation.records import DEFAULT_TENANT, Checkpoint, Paging, ResponseId, TenantId
from app.conversation.responses import Responses
from app.conversation.sealing import Sealing
from app.conversation.upkeep import Upkeep
from app.errors import EngineError, NotFound
from app.store.memory_contexts import MemoryContextStore
from tests.unit.conversation.test_turns import CHECKPOINT, Chat, request

Json = dict[str, Any]
INSTRUCTIONS = Options(instructions="be kind")
ECHO: Json = {"metadata": {}, "reasoning": {"effort": None, "summary": None}}


def prewarming(ttl_s: int = 3600, **changes: Any) -> TurnRequest:
    asked = {"generate": False, "options": INSTRUCTIONS, "caching": Caching(True, ttl_s), "echo": ECHO}
    return request(**{**asked, **changes})


class Service(Chat):
    def __init__(self) -> None:
        super().__init__()
        self.worker.usage = Usage(input_tokens=9)
        self.kept = MemoryContextStore(self.store)
        self.responses = Responses(self.store, self.worker, Sealing(self.store))
        self.upkeep = Upkeep(self.kept, self.store, self.responses, self.turns)
        self.contexts = Contexts(self.kept, self.turns, self.responses, self.upkeep)

    async def created(self, asked: TurnRequest | None = None, tenant: TenantId = DEFAULT_TENANT) -> Json:
        return await self.contexts.create(
            tenant, "a name", {"instructions": "be kind"}, asked or prewarming()
        )

    async def used(self, context: Json, ttl_s: int | None = None) -> HeldContext:
        return await self.contexts.use(DEFAULT_TENANT, ContextId(context["id"]), ttl_s, param="x-session-id")

    async def began(self, context: Json, ttl_s: int | None = None) -> Json:
        """The first turn of a conversation from it."""
        held = await self.used(context, ttl_s)
        running = await self.turns.start(starting_from(held, request(options=INSTRUCTIONS)), DEFAULT_TENANT)
        self.contexts.began(held, running.path, prewarming(input=()))
        events = [event async for together in running.events() for event in together]
        await self.upkeep.settled()
        return events[-1]["response"]

    async def checkpoint(self, context: Json) -> Checkpoint | None:
        parent = await self.store.parent(DEFAULT_TENANT, ResponseId(context["response_id"]))
        assert parent is not None
        return parent.checkpoint

    async def expire(self, context: Json) -> None:
        held = await self.used(context)
        past = replace(held.context, expires_at=datetime.now(UTC))
        await self.kept.remove(DEFAULT_TENANT, past.id)
        await self.kept.add(past)


@pytest.fixture
async def service() -> AsyncIterator[Service]:
    service = Service()
    async with service.upkeep:
        yield service


async def test_it_is_a_response_that_answers_nothing(service: Service) -> None:
    context = await service.created()
    assert context == await service.contexts.get(DEFAULT_TENANT, ContextId(context["id"]))
    assert (context["object"], context["status"], context["ttl"]) == ("context", "ready", 3600)
    assert (context["token_count"], context["instructions"], context["model"]) == (9, "be kind", "m")
    assert context["expires_at"] - context["created_at"] in (3600, 3601)
    response = await service.responses.get(DEFAULT_TENANT, ResponseId(context["response_id"]))
    assert (response["output"], response["status"]) == ([], "completed")
    assert service.worker.generations[0].options.max_output_tokens == 1
    assert service.worker.prompts[0].keep_s == 3600


async def test_its_model_stands_in_as_well(service: Service) -> None:
    context = await service.created()
    held = await service.used(context)
    assert held.context.prompt == {"instructions": "be kind", "model": "m"}


async def test_two_conversations_send_their_margins_alone(service: Service) -> None:
    context = await service.created()
    for _ in range(2):
        first = await service.began(context)
        assert first["caching"]["path"] == "hit"
        assert first["previous_response_id"] == context["response_id"]
        margin = service.worker.prompts[-1]
        assert isinstance(margin, Margin)
        assert (margin.checkpoint, margin.parent_output) == (CHECKPOINT, ())
    assert len(service.worker.prompts) == 3


async def test_what_continues_something_else_does_so(service: Service) -> None:
    held = await service.used(await service.created())
    assert starting_from(held, request("resp_1")).previous_response_id == "resp_1"


async def test_what_fails_leaves_nothing(service: Service) -> None:
    service.worker.breaks_off = True
    with pytest.raises(EngineError):
        await service.created()
    page = await service.contexts.page(DEFAULT_TENANT, Paging(), None)
    assert page["data"] == []


async def test_without_a_kept_prefix_it_is_cold_and_can_be_used(service: Service) -> None:
    service.worker.prefix_refusal = "no_plugin"
    context = await service.created()
    assert context["status"] == "cold"
    assert (await service.began(context))["caching"]["path"] == "full"
    # Nothing was lost: asking once more would keep nothing either.
    assert len(service.worker.prompts) == 2


async def test_it_belongs_to_its_tenant(service: Service) -> None:
    context = await service.created(tenant=TenantId("somebody else"))
    for call in (service.used(context), service.contexts.delete(DEFAULT_TENANT, context["id"])):
        with pytest.raises(NotFound):
            await call


async def test_a_lost_prefix_is_made_ready_again(service: Service) -> None:
    context = await service.created()
    service.worker.misses = [PrefixMissed("prefix_miss")]
    new = replace(CHECKPOINT, ref="12" * 16)
    service.worker.checkpoint = new
    assert (await service.began(context))["caching"]["path"] == "reseed"
    again = service.worker.prompts[-1]
    assert isinstance(again, Whole)
    assert again.new_input == request().input
    assert again.keep_s is not None
    assert 3000 < again.keep_s <= 3600
    assert service.worker.generations[-1].options.instructions == "be kind"
    assert await service.checkpoint(context) == new
    assert (await service.began(context))["caching"]["path"] == "hit"
    # What a conversation continues is the same as before.
    assert (await service.used(context)).context.response_id == context["response_id"]


async def test_what_cannot_be_made_ready_again_fails_no_turn(service: Service) -> None:
    context = await service.created()
    service.worker.misses = [PrefixMissed("prefix_miss")]
    held = await service.used(context)
    running = await service.turns.start(starting_from(held, request(options=INSTRUCTIONS)), DEFAULT_TENANT)
    service.worker.misses = [EngineError("gone"), EngineError("gone")]
    service.contexts.began(held, running.path, prewarming(input=()))
    await service.upkeep.settled()
    events = [event async for together in running.events() for event in together]
    assert events[-1]["type"] == "response.completed"


async def test_it_is_renewed_by_its_use(service: Service) -> None:
    context = await service.created(prewarming(60))
    before = await service.used(context)
    assert (await service.used(context, 30)).context == before.context
    renewed = await service.used(context, 7200)
    assert renewed.context.ttl_s == 7200
    assert renewed.context.expires_at > before.context.expires_at + timedelta(seconds=7000)
    assert (await service.used(context)).context == renewed.context


async def test_a_prefix_that_ends_long_before_its_context_is_kept_longer(service: Service) -> None:
    service.worker.checkpoint = replace(CHECKPOINT, expires_at=datetime.now(UTC) + timedelta(seconds=600))
    context = await service.created(prewarming(600))
    await service.began(context, 1000)
    assert len(service.worker.prompts) == 2
    longer = replace(CHECKPOINT, expires_at=datetime.now(UTC) + timedelta(seconds=72000))
    service.worker.checkpoint = longer
    await service.began(context, 72000)
    assert len(service.worker.prompts) == 4
    assert await service.checkpoint(context) == longer
    await service.began(context, 72000)
    assert len(service.worker.prompts) == 5


async def test_what_expired_is_removed_with_its_response(service: Service) -> None:
    context, other = await service.created(), await service.created()
    await service.expire(context)
    with pytest.raises(NotFound) as caught:
        await service.used(context)
    assert (caught.value.param, context["id"] in caught.value.message) == ("x-session-id", True)
    await service.upkeep.settled()
    assert await service.store.get(DEFAULT_TENANT, ResponseId(context["response_id"])) is None
    page = await service.contexts.page(DEFAULT_TENANT, Paging(), "a name")
    assert [found["id"] for found in page["data"]] == [other["id"]]


@pytest.mark.parametrize("by", ["create", "page"])
async def test_what_expired_is_removed_by_the_way(service: Service, by: str) -> None:
    context = await service.created()
    await service.expire(context)
    if by == "create":
        await service.created()
    else:
        await service.contexts.page(DEFAULT_TENANT, Paging(), None)
    await service.upkeep.settled()
    assert await service.store.get(DEFAULT_TENANT, ResponseId(context["response_id"])) is None


async def test_conversations_go_on_without_it(service: Service) -> None:
    context = await service.created()
    first = await service.began(context)
    await service.contexts.delete(DEFAULT_TENANT, ContextId(context["id"]))
    for call in (service.used(context), service.contexts.delete(DEFAULT_TENANT, ContextId(context["id"]))):
        with pytest.raises(NotFound):
            await call
    second = await service.response(request(first["id"], options=INSTRUCTIONS))
    assert second["caching"]["path"] == "hit"
    history = await service.store.history(DEFAULT_TENANT, second["id"])
    assert [len(segment.input_items) for segment in history] == [1, 1, 1]


async def test_deleting_its_response_deletes_it(service: Service) -> None:
    context = await service.created()
    await service.responses.delete(DEFAULT_TENANT, ResponseId(context["response_id"]))
    with pytest.raises(NotFound):
        await service.contexts.get(DEFAULT_TENANT, ContextId(context["id"]))
