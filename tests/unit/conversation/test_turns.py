"""The life of a turn on an in-memory store and a scripted engine: the ladder, the commit, the failures."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.conversation.conversations import Conversations
from app.conversation.engine import (
    Delta,
    Generation,
    Margin,
    NoPlugin,
    Outcome,
    PrefixMissed,
    ToolCallDelta,
    Usage,
    Whole,
)
from app.conversation.leases import Leases
from app.conversation.options import Options
from app.conversation.output import Event
from app.conversation.plan import Caching, TurnRequest
from app.conversation.records import DEFAULT_TENANT, Checkpoint, ResponseId, TenantId, Turn
from app.conversation.sealing import Sealing
from app.conversation.seeds import Seeds
from app.conversation.turns import Turns
from app.errors import (
    ContextLengthExceeded,
    EngineError,
    InvalidRequest,
    PreviousResponseNotFound,
    StoreUnavailable,
)
from app.store.memory import MemoryResponseStore
from tests.unit.conversation.test_events import REQUEST

CHECKPOINT = Checkpoint(
    "ab" * 16, "cd" * 16, 9, "ef" * 16, (), "http://w", datetime.now(UTC) + timedelta(days=1)
)


@dataclass
class ScriptedAnswer:
    path: str
    reason: str | None
    text: str
    checkpoint: Checkpoint | None
    seed: bytes | None
    breaks_off: bool
    usage: Usage = field(default_factory=Usage)
    script: tuple[Delta, ...] = ()

    async def deltas(self) -> AsyncIterator[Delta]:
        for delta in self.script:
            yield delta
            await asyncio.sleep(0)
        if not self.script:
            yield Delta(text=self.text)
        if self.breaks_off:
            raise EngineError("vLLM broke off")
        if not self.script:
            yield Delta(finish_reason="stop")

    @property
    def outcome(self) -> Outcome:
        return Outcome(self.path, self.reason, 3, 2, 1, self.checkpoint, self.seed)


def items(prompt: Margin | Whole) -> int:
    if isinstance(prompt, Margin):
        return len(prompt.parent_output + prompt.new_input)
    return len(prompt.new_input) + sum(len(s.input_items + s.output_items) for s in prompt.history)


@dataclass
class ScriptedWorker:
    """Answers prompts; `misses` are raised, one per prompt, before it does. Seeds are numbered as prompts."""

    prefix_refusal: str | None = None
    misses: list[Exception] = field(default_factory=list)
    prompts: list[Margin | Whole] = field(default_factory=list)
    generations: list[Generation] = field(default_factory=list)
    running: int = 0
    breaks_off: bool = False
    room: int = 100
    """Items that a prompt may have."""
    checkpoint: Checkpoint = CHECKPOINT
    deltas: tuple[Delta, ...] = ()
    usage: Usage = field(default_factory=Usage)

    @asynccontextmanager
    async def answer(self, generation: Generation, prompt: Margin | Whole) -> AsyncIterator[ScriptedAnswer]:
        self.prompts.append(prompt)
        self.generations.append(generation)
        if self.misses:
            raise self.misses.pop(0)
        if items(prompt) > self.room:
            raise ContextLengthExceeded("too long", param="input")
        if isinstance(prompt, Margin):
            path, reason = "hit", None
        else:
            path, reason = ("reseed" if prompt.lost else "full"), prompt.reason
        self.running += 1
        try:
            kept = self.checkpoint if prompt.keep_s is not None else None
            seed = b"%d" % len(self.prompts) if kept and generation.keep_ids else None
            yield ScriptedAnswer(path, reason, "hi", kept, seed, self.breaks_off, self.usage, self.deltas)
        finally:
            self.running -= 1

    @property
    def context_length(self) -> int:
        return self.room

    async def count(self, generation: Generation, prompt: Margin | Whole) -> int:
        """One token an item."""
        self.prompts.append(prompt)
        if self.misses:
            raise self.misses.pop(0)
        return items(prompt)

    async def pick(
        self, model: str | None, prefer: str | None = None, affinity: str | None = None
    ) -> tuple["ScriptedWorker", str]:
        return self, model or "m"

    async def forget(self, checkpoints: Sequence[Checkpoint]) -> None: ...
    def models(self) -> list[dict[str, Any]]:
        return []

    async def ping(self) -> None: ...


def request(previous: str | None = None, **changes: Any) -> TurnRequest:
    asked = ({"type": "message", "role": "user", "content": [{"type": "input_text", "text": "q"}]},)
    previous_id = ResponseId(previous) if previous else None
    return replace(REQUEST, **{"input": asked, "previous_response_id": previous_id, **changes})


class Chat:
    def __init__(
        self,
        store: MemoryResponseStore | None = None,
        seeds: Seeds | None = None,
        *,
        wait: bool = True,
        lease_s: float = 30.0,
    ) -> None:
        self.store = store or MemoryResponseStore()
        self.worker = ScriptedWorker()
        sealing = Sealing(self.store)
        kept = self.store.conversations
        self.leases = Leases(kept, wait=wait, patience_s=60.0, lease_s=lease_s)
        self.conversations = Conversations(kept, self.store, sealing, self.leases)
        self.turns = Turns(
            self.store,
            self.worker,
            lambda tenant: f"ns-{tenant}",
            "sampled",
            seeds,
            sealing,
            conversations=self.conversations,
            tool_servers=None,
        )

    async def turn(self, made: TurnRequest) -> list[Event]:
        running = await self.turns.start(made, DEFAULT_TENANT)
        events = [event async for together in running.events() for event in together]
        await running.settle()
        return events

    async def response(self, made: TurnRequest) -> dict[str, Any]:
        response: dict[str, Any] = (await self.turn(made))[-1]["response"]
        return response


@pytest.fixture
def chat() -> Chat:
    return Chat()


def caching(response: dict[str, Any]) -> tuple[str, str | None]:
    return response["caching"]["path"], response["caching"]["reason"]


async def test_the_second_turn_sends_the_margin_alone(chat: Chat) -> None:
    first = await chat.response(request())
    second = await chat.response(request(first["id"]))
    assert (caching(first), caching(second)) == (("full", "new_conversation"), ("hit", None))
    margin = chat.worker.prompts[-1]
    assert isinstance(margin, Margin)
    assert margin.checkpoint == CHECKPOINT
    assert margin.parent_output == tuple(first["output"])
    assert margin.new_input == request().input


@pytest.mark.parametrize("code", ["prefix_miss", "prefix_expired", "hash_mismatch", "fingerprint_mismatch"])
async def test_a_typed_miss_becomes_a_reseed_that_the_client_does_not_see(chat: Chat, code: str) -> None:
    first = await chat.response(request())
    chat.worker.misses = [PrefixMissed(code)]
    events = await chat.turn(request(first["id"]))
    assert caching(events[-1]["response"]) == ("reseed", code)
    whole = chat.worker.prompts[-1]
    assert isinstance(whole, Whole)
    assert [len(segment.output_items) for segment in whole.history] == [1]
    assert [e["sequence_number"] for e in events] == list(range(len(events)))
    assert caching(await chat.response(request(events[-1]["response"]["id"]))) == ("hit", None)


@pytest.mark.parametrize(
    ("last", "reason"),
    [(NoPlugin("no_plugin"), "no_plugin"), (PrefixMissed("not_continuable"), "not_continuable")],
)
async def test_the_ladder_ends_on_vllms_own_route(chat: Chat, last: Exception, reason: str) -> None:
    first = await chat.response(request())
    chat.worker.misses = [PrefixMissed("prefix_miss"), last]
    assert caching(await chat.response(request(first["id"]))) == ("full", reason)
    assert [type(p).__name__ for p in chat.worker.prompts[-3:]] == ["Margin", "Whole", "Whole"]
    assert chat.worker.prompts[-1].keep_s is None


async def test_a_lost_plugin_is_noticed_on_the_first_rung(chat: Chat) -> None:
    first = await chat.response(request())
    chat.worker.misses = [NoPlugin("no_plugin")]
    assert caching(await chat.response(request(first["id"]))) == ("full", "no_plugin")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"options": Options(instructions="be kind")}, "instructions_changed"),
        ({"model": "other"}, "model_changed"),
        ({"caching": Caching(enabled=False, ttl_s=60)}, "caching_disabled"),
    ],
)
async def test_reasons_for_a_full_render(chat: Chat, changes: dict[str, Any], reason: str) -> None:
    first = await chat.response(request())
    assert caching(await chat.response(request(first["id"], **changes))) == ("full", reason)


async def test_a_parent_without_checkpoint_is_rendered_in_full_and_kept_again(chat: Chat) -> None:
    first = await chat.response(request(caching=Caching(enabled=False, ttl_s=60)))
    second = await chat.response(request(first["id"]))
    assert caching(second) == ("full", "parent_not_cached")
    assert caching(await chat.response(request(second["id"]))) == ("hit", None)


async def test_without_a_plugin_nothing_is_kept(chat: Chat) -> None:
    chat.worker.prefix_refusal = "no_plugin"
    first = await chat.response(request())
    assert caching(await chat.response(request(first["id"]))) == ("full", "no_plugin")
    assert all(isinstance(p, Whole) and p.keep_s is None for p in chat.worker.prompts)


async def test_an_expired_checkpoint_is_not_tried(chat: Chat) -> None:
    chat.worker.checkpoint = replace(CHECKPOINT, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    first = await chat.response(request())
    assert caching(await chat.response(request(first["id"]))) == ("reseed", "prefix_expired")


async def test_two_branches_are_both_hits(chat: Chat) -> None:
    first = await chat.response(request())
    assert [caching(await chat.response(request(first["id"]))) for _ in range(2)] == [("hit", None)] * 2


async def test_not_stored_means_not_found_and_nothing_kept(chat: Chat) -> None:
    first = await chat.response(request())
    second = await chat.response(request(first["id"], store=False))
    assert caching(second) == ("hit", None)
    assert chat.worker.prompts[-1].keep_s is None
    with pytest.raises(PreviousResponseNotFound) as caught:
        await chat.turn(request(second["id"]))
    assert caught.value.param == "previous_response_id"


async def test_a_turn_that_breaks_off_leaves_nothing_and_its_parent_goes_on(chat: Chat) -> None:
    first = await chat.response(request())
    chat.worker.breaks_off = True
    failed = (await chat.turn(request(first["id"])))[-1]
    assert failed["type"] == "response.failed"
    assert failed["response"]["error"]["message"] == "vLLM broke off"
    assert await chat.store.get(DEFAULT_TENANT, failed["response"]["id"]) is None
    chat.worker.breaks_off = False
    assert caching(await chat.response(request(first["id"]))) == ("hit", None)


async def test_a_client_that_leaves_aborts_and_nothing_is_kept(chat: Chat) -> None:
    running = await chat.turns.start(request(), DEFAULT_TENANT)
    events = running.events()
    await anext(events)
    assert chat.worker.running == 1
    await events.aclose()  # type: ignore[attr-defined]
    assert chat.worker.running == 0
    assert await chat.store.get(DEFAULT_TENANT, running.id) is None


async def test_a_turn_that_is_never_read_can_be_closed(chat: Chat) -> None:
    running = await chat.turns.start(request(), DEFAULT_TENANT)
    await running.aclose()
    assert chat.worker.running == 0


class Watching(MemoryResponseStore):
    """Notes when a turn is saved, or fails to save it."""

    def __init__(self, *, fails: bool = False) -> None:
        super().__init__()
        self.fails = fails
        self.saved: list[Turn] = []

    async def save(self, turn: Turn) -> None:
        if self.fails:
            raise StoreUnavailable("The database cannot be reached.")
        await super().save(turn)
        self.saved.append(turn)


async def test_completed_comes_after_the_commit() -> None:
    store = Watching()
    running = await Chat(store).turns.start(request(), DEFAULT_TENANT)
    async for events in running.events():
        assert {bool(store.saved)} == {event["type"] == "response.completed" for event in events}
    assert store.saved[0].response.body["status"] == "completed"
    assert store.saved[0].checkpoint == CHECKPOINT


async def test_a_commit_that_fails_fails_the_turn() -> None:
    chat = Chat(Watching(fails=True))
    events = await chat.turn(request())
    assert events[-1]["type"] == "response.failed"
    assert "response.completed" not in {e["type"] for e in events}
    assert [e["sequence_number"] for e in events] == list(range(len(events)))


async def test_tenants_do_not_see_each_other(chat: Chat) -> None:
    first = await chat.response(request())
    with pytest.raises(PreviousResponseNotFound):
        await chat.turns.start(request(first["id"]), TenantId("somebody else"))


async def test_a_prefix_can_be_prepared_without_an_answer_and_continued(chat: Chat) -> None:
    events = await chat.turn(request(generate=False))
    types = [e["type"] for e in events]
    assert types == ["response.created", "response.in_progress", "response.completed"]
    prepared = events[-1]["response"]
    assert (prepared["status"], prepared["output"]) == ("completed", [])
    assert caching(await chat.response(request(prepared["id"]))) == ("hit", None)
    margin = chat.worker.prompts[-1]
    assert isinstance(margin, Margin)
    assert margin.parent_output == ()


async def test_without_a_breakpoint_explicit_caching_keeps_nothing_but_uses_what_is_kept(chat: Chat) -> None:
    explicit = Caching(enabled=True, ttl_s=60, keep=False)
    first = await chat.response(request())
    second = await chat.response(request(first["id"], caching=explicit))
    third = await chat.response(request(second["id"]))
    assert (caching(second), caching(third)) == (("hit", None), ("full", "parent_not_cached"))


async def test_a_response_to_compare_with_is_named_to_the_worker_and_told_of(chat: Chat) -> None:
    first = await chat.response(request())
    second = await chat.response(request(compare=ResponseId(first["id"])))
    assert chat.worker.generations[-1].compare == CHECKPOINT.ref
    assert second["prompt_cache_diagnostics"] == {"type": "unavailable"}
    unknown = await chat.response(request(compare=ResponseId("resp_x")))
    assert unknown["prompt_cache_diagnostics"] == {"type": "comparison_response_not_found"}


async def chain(chat: Chat, turns: int) -> dict[str, Any]:
    response: dict[str, Any] = {"id": None}
    for _ in range(turns):
        response = await chat.response(request(response["id"]))
    return response


@pytest.mark.parametrize("room", [1, 2, 3, 4, 5, 6, 7])
async def test_truncation_leaves_out_as_few_of_the_oldest_items_as_will_do(chat: Chat, room: int) -> None:
    last = await chain(chat, 3)  # q hi q hi q hi, and one more q
    chat.worker.room = room
    if room < 7:
        chat.worker.misses = [ContextLengthExceeded("too long", param="input")]  # the margin's prompt
    answered = await chat.response(request(last["id"], truncate=True))
    if room >= 7:
        assert caching(answered) == ("hit", None)
        return
    assert caching(answered) == ("full", "truncated")
    prompt = chat.worker.prompts[-1]
    assert isinstance(prompt, Whole)
    kept = [item for segment in prompt.history for item in segment.input_items]
    # Cut before a question: the most turns that fit.
    assert len(kept) == (room + 1) // 2 * 2 - 1
    assert kept[0]["role"] == "user"
    assert kept[-1:] == [*request().input]
    assert prompt.keep_s is None


@pytest.mark.parametrize("role", ["system", "developer"])
async def test_truncation_keeps_what_the_system_said(chat: Chat, role: str) -> None:
    system = {"type": "message", "role": role, "content": [{"type": "input_text", "text": "be kind"}]}
    first = await chat.response(request(input=(system, *request().input)))
    chat.worker.room = 2
    await chat.response(request(first["id"], truncate=True, caching=Caching(enabled=False, ttl_s=60)))
    prompt = chat.worker.prompts[-1]
    assert isinstance(prompt, Whole)
    assert [i["role"] for s in prompt.history for i in s.input_items] == [role, "user"]


async def test_what_does_not_fit_is_refused_without_truncation_and_where_none_helps(chat: Chat) -> None:
    last = await chain(chat, 2)
    for room, truncate in ((2, False), (0, True)):
        chat.worker.room = room
        with pytest.raises(ContextLengthExceeded):
            await chat.turn(request(last["id"], truncate=truncate, caching=Caching(False, 60)))
    chat.worker.room = 100
    assert caching(await chat.response(request(last["id"]))) == ("hit", None)


async def test_counting_samples_nothing_and_keeps_nothing(chat: Chat) -> None:
    first = await chat.response(request())
    assert await chat.turns.count(request(first["id"]), DEFAULT_TENANT) == 2
    assert isinstance(chat.worker.prompts[-1], Margin)
    assert chat.worker.prompts[-1].keep_s is None
    chat.worker.misses = [PrefixMissed("prefix_miss")]
    assert await chat.turns.count(request(first["id"]), DEFAULT_TENANT) == 3
    assert len(chat.worker.generations) == 1


async def test_a_call_without_its_output_is_refused_and_its_parent_goes_on(chat: Chat) -> None:
    asked = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed"}
    with pytest.raises(InvalidRequest, match="No tool output found"):
        await chat.turns.start(request(input=(asked,)), DEFAULT_TENANT)


@pytest.mark.parametrize(
    ("arguments", "tokens", "ended"),
    [
        ('{"a": "b', 9, "incomplete"),
        ('{"a": "b', 8, "completed"),  # the model's own fault: there was room for more
        ('{"a": "b"}', 9, "completed"),
    ],
)
async def test_an_answer_cut_in_a_call_is_incomplete_whatever_vllm_calls_it(
    chat: Chat, arguments: str, tokens: int, ended: str
) -> None:
    chat.worker.deltas = (
        Delta(tool_calls=(ToolCallDelta(0, "c", "f", arguments),)),
        Delta(finish_reason="tool_calls"),
    )
    chat.worker.usage = Usage(output_tokens=tokens)
    response = await chat.response(request(options=Options(max_output_tokens=9)))
    assert (response["status"], response["output"][0]["status"]) == (ended, ended)
    if ended == "incomplete":
        assert response["incomplete_details"] == {"reason": "max_output_tokens"}
        chat.worker.deltas = ()
        output = {"type": "function_call_output", "call_id": "c", "output": []}
        for answer in (request().input, (output,)):
            assert caching(await chat.response(request(response["id"], input=answer))) == ("hit", None)


async def test_truncation_does_not_part_a_call_from_its_output(chat: Chat) -> None:
    asked = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}", "status": "completed"}
    output = {"type": "function_call_output", "call_id": "c", "output": []}
    (user,) = request().input
    first = await chat.response(request(input=(user, asked, user, output)))
    disabled = Caching(enabled=False, ttl_s=60)
    chat.worker.room = 5
    await chat.response(request(first["id"], truncate=True, caching=disabled))
    prompt = chat.worker.prompts[-1]
    assert isinstance(prompt, Whole)
    # Of six items the last alone: what stands between the call and its output is no place to begin.
    assert [item["type"] for s in prompt.history for item in s.input_items] == ["message"]


async def test_counting_truncates_as_an_answer_would(chat: Chat) -> None:
    last = await chain(chat, 8)
    for room in (9, 16, 18):
        chat.worker.room = room
        asked = request(last["id"], truncate=True, caching=Caching(enabled=False, ttl_s=60))
        counted = await chat.turns.count(asked, DEFAULT_TENANT)
        await chat.response(asked)
        assert items(chat.worker.prompts[-1]) == counted


async def test_preparing_a_prefix_asks_for_one_token_whatever_else_was_asked(chat: Chat) -> None:
    options = Options(max_output_tokens=9, extras={"min_tokens": 5, "seed": 1})
    await chat.response(request(generate=False, options=options))
    sent = chat.worker.generations[-1].options
    assert (sent.max_output_tokens, sent.extras) == (1, {"seed": 1})
