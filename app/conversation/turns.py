"""The life of a turn: read the parent, plan, generate down the ladder, commit, and only then complete.

What is kept for a worker that will have lost it is written after that.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

from app.conversation import response as body
from app.conversation.engine import (
    AnswerStream,
    Engine,
    Generation,
    Margin,
    NoPlugin,
    PrefixMissed,
    Whole,
    Worker,
)
from app.conversation.events import Event, EventAssembler, new_id
from app.conversation.plan import Plan, TurnRequest, plan_turn
from app.conversation.records import Parent, ResponseId, ResponseStore, StoredResponse, TenantId, Turn
from app.conversation.seeds import Seeds
from app.errors import MarginaliaError, PreviousResponseNotFound
from app.prefix.wire import Policy


class Turns:
    """Runs turns. `namespace` gives a tenant's scope of references and KV cache; without `seeds`, no token
    ids are kept."""

    def __init__(
        self,
        store: ResponseStore,
        engine: Engine,
        namespace: Callable[[str], str],
        policy: Policy,
        seeds: Seeds | None,
    ) -> None:
        self._store = store
        self._engine = engine
        self._namespace = namespace
        self._policy: Policy = policy
        self._seeds = seeds

    async def start(self, request: TurnRequest, tenant: TenantId) -> "RunningTurn":
        """Returns once vLLM has accepted the turn, with nothing generated yet.

        Raises what is the request's fault (InvalidRequest, NotFound) or the machine's (EngineError,
        StoreUnavailable). The caller iterates `events()` to its end, or calls `aclose()`; then `settle()`.
        """
        parent = await self._parent(request, tenant)
        prefer = parent.checkpoint.worker if parent and parent.checkpoint else None
        worker, model = await self._engine.pick(request.model, prefer)
        generation = Generation(
            model=model,
            instructions=request.instructions,
            tools=request.tools,
            tool_choice=request.tool_choice,
            parallel_tool_calls=request.parallel_tool_calls,
            temperature=request.temperature,
            top_p=request.top_p,
            max_output_tokens=request.max_output_tokens,
            namespace=self._namespace(tenant),
            policy=self._policy,
            keep_ids=self._seeds is not None,
        )
        plan = plan_turn(request, generation, parent, worker.prefix_refusal, datetime.now(UTC))
        async with AsyncExitStack() as stack:
            ladder = _Ladder(stack, worker, generation)
            answer = await self._descend(ladder, request, tenant, parent, plan)
            return RunningTurn(
                self._store, self._seeds, request, tenant, parent, model, answer, stack.pop_all()
            )

    async def _parent(self, request: TurnRequest, tenant: TenantId) -> Parent | None:
        if request.previous_response_id is None:
            return None
        parent = await self._store.parent(tenant, request.previous_response_id)
        if parent is None:
            raise PreviousResponseNotFound(
                f"Previous response with id '{request.previous_response_id}' not found.",
                param="previous_response_id",
            )
        return parent

    async def _descend(
        self, ladder: "_Ladder", request: TurnRequest, tenant: TenantId, parent: Parent | None, plan: Plan
    ) -> AnswerStream:
        """Each rung at most once: by reference if planned; the whole history; vLLM's own route."""
        keep_s = request.caching.ttl_s if plan.keep else None
        reason, lost = plan.reason or "", plan.lost
        if plan.checkpoint is not None and parent is not None:
            try:
                return await ladder.answer(
                    Margin(plan.checkpoint, parent.output_items, request.input, keep_s)
                )
            except PrefixMissed as miss:
                reason, lost = miss.code, True
            except NoPlugin as missing:
                reason, keep_s = missing.reason, None
        # Only here is history read at all.
        history = tuple(await self._store.history(tenant, parent.response.id)) if parent else ()
        seeds: tuple[bytes, ...] = ()
        if lost and keep_s is not None and parent and self._seeds:
            seeds = await self._seeds.of(tenant, parent.response.id)
        try:
            return await ladder.answer(Whole(history, request.input, keep_s, reason, lost, seeds))
        except NoPlugin as missing:
            reason = missing.reason
        except PrefixMissed as miss:
            reason = miss.code
        return await ladder.answer(Whole(history, request.input, None, reason))


@dataclass(frozen=True, slots=True)
class _Ladder:
    stack: AsyncExitStack
    worker: Worker
    generation: Generation

    async def answer(self, prompt: Margin | Whole) -> AnswerStream:
        return await self.stack.enter_async_context(self.worker.answer(self.generation, prompt))


class RunningTurn:
    """A turn that vLLM works on. Leaving it early aborts the generation and keeps nothing."""

    def __init__(
        self,
        store: ResponseStore,
        seeds: Seeds | None,
        request: TurnRequest,
        tenant: TenantId,
        parent: Parent | None,
        model: str,
        answer: AnswerStream,
        stack: AsyncExitStack,
    ) -> None:
        self.id = ResponseId(new_id("resp"))
        self.answer = answer
        self._store = store
        self._seeds = seeds
        self._request = request
        self._tenant = tenant
        self._parent = parent
        self._stack = stack
        self._seed: bytes | None = None
        self._body = body.new_body(request, self.id, model, answer.path, answer.reason)

    async def aclose(self) -> None:
        await self._stack.aclose()

    async def settle(self) -> None:
        """What no client waits for: keep the token ids of a turn that was committed. Call it once the
        answer has gone out; without, a later reseed tokenizes more."""
        if self._seeds is not None and self._seed is not None:
            self._seeds.keep(self._tenant, self.id, self._seed)

    async def events(self) -> AsyncIterator[Event]:
        """The response's events. The last is `response.completed` or `.incomplete`, after the commit, or
        `response.failed`, with nothing kept."""
        assembler = EventAssembler(self._body)
        try:
            for event in assembler.start():
                yield event
            finish_reason = None
            async for delta in self.answer.deltas():
                finish_reason = delta.finish_reason or finish_reason
                for event in assembler.add(delta):
                    yield event
            ending = body.ending(finish_reason)
            for event in assembler.end(ending["status"]):
                yield event
            self._body |= ending | body.accounts(self._request, self.answer.usage, self.answer.outcome)
            if self._request.store:
                await self._commit(assembler)
        except MarginaliaError as exc:
            self._body |= body.failure(exc.message)
        finally:
            await self.aclose()
        yield assembler.final()

    async def _commit(self, assembler: EventAssembler) -> None:
        parent = self._parent.response if self._parent else None
        stored = StoredResponse(
            id=self.id,
            tenant=self._tenant,
            root_id=parent.root_id if parent else self.id,
            previous_response_id=parent.id if parent else None,
            created_at=datetime.fromtimestamp(self._body["created_at"], UTC),
            body=self._body,
        )
        outcome = self.answer.outcome
        output = tuple(assembler.output)
        await self._store.save(Turn(stored, self._request.input, output, outcome.checkpoint))
        self._seed = outcome.seed
