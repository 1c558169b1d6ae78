"""The life of a turn until vLLM has it: read the parent, plan, and go down the ladder."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

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
from app.conversation.inputs import check_calls, resolve
from app.conversation.plan import Plan, TurnRequest, plan_turn
from app.conversation.records import Parent, ResponseStore, Segment, TenantId
from app.conversation.running import Asked, RunningTurn
from app.conversation.sealing import Sealing
from app.conversation.seeds import Seeds
from app.conversation.truncation import fitting
from app.errors import ContextLengthExceeded, PreviousResponseNotFound
from app.prefix.wire import Policy

T = TypeVar("T")


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
        sealing: Sealing,
    ) -> None:
        self._store = store
        self._engine = engine
        self._namespace = namespace
        self._policy: Policy = policy
        self._seeds = seeds
        self._sealing = sealing

    async def start(self, request: TurnRequest, tenant: TenantId) -> RunningTurn:
        """Returns once vLLM has accepted the turn, with nothing generated yet.

        Raises what is the request's fault (InvalidRequest, NotFound) or the machine's (EngineError,
        StoreUnavailable). The caller iterates `events()` to its end, or calls `aclose()`; then `settle()`.
        """
        asked, worker, generation, plan = await self._prepare(request, tenant)
        async with AsyncExitStack() as stack:

            async def answer(prompt: Margin | Whole) -> AnswerStream:
                return await stack.enter_async_context(worker.answer(generation, prompt))

            sealer = await self._sealing.sealer() if asked.request.seal_reasoning else None
            stream = await self._descend(answer, worker, generation, asked, plan)
            return RunningTurn(self._store, self._seeds, sealer, asked, generation, stream, stack.pop_all())

    async def count(self, request: TurnRequest, tenant: TenantId) -> int:
        """Tokens of the prompt that `start` would send to the engine. Raises as it does."""
        asked, worker, generation, plan = await self._prepare(request, tenant)
        count = partial(worker.count, generation)
        try:
            tokens = await self._ladder(count, asked, replace(plan, keep=False))
        except ContextLengthExceeded:
            # By reference a prompt is counted as far as it could be answered.
            tokens = await count(await self._whole(asked))
        if request.truncate and tokens >= worker.context_length:
            tokens = await count(await fitting(worker, generation, await self._whole(asked)))
        return tokens

    async def _prepare(
        self, request: TurnRequest, tenant: TenantId
    ) -> tuple[Asked, Worker, Generation, Plan]:
        request = replace(request, input=await resolve(request.input, self._store, tenant, self._sealing))
        parent = await self._parent(request, tenant)
        check_calls(parent.output_items if parent else (), request.input)
        compared = await self._store.parent(tenant, request.compare) if request.compare else None
        prefer = parent.checkpoint.worker if parent and parent.checkpoint else None
        worker, model = await self._engine.pick(request.model, prefer, request.affinity)
        generation = Generation(
            model=model,
            options=request.options if request.generate else request.options.of_one_token(),
            namespace=self._namespace(tenant),
            policy=self._policy,
            keep_ids=self._seeds is not None,
            compare=compared.checkpoint.ref if compared and compared.checkpoint else None,
        )
        plan = plan_turn(request, generation, parent, worker.prefix_refusal, datetime.now(UTC))
        return Asked(request, tenant, parent, compared), worker, generation, plan

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
        self,
        answer: Callable[[Margin | Whole], Awaitable[T]],
        worker: Worker,
        generation: Generation,
        asked: Asked,
        plan: Plan,
    ) -> T:
        """`answer` of the first prompt that can be had: each rung of the ladder at most once, and where a
        conversation that may be truncated does not fit, without its oldest items."""
        try:
            return await self._ladder(answer, asked, plan)
        except ContextLengthExceeded:
            if not asked.request.truncate:
                raise
        return await answer(await fitting(worker, generation, await self._whole(asked)))

    async def _ladder(self, answer: Callable[[Margin | Whole], Awaitable[T]], asked: Asked, plan: Plan) -> T:
        """By reference if planned; the whole history; vLLM's own route."""
        request, parent = asked.request, asked.parent
        keep_s = request.caching.ttl_s if plan.keep else None
        reason, lost = plan.reason or "", plan.lost
        if plan.checkpoint is not None and parent is not None:
            try:
                return await answer(Margin(plan.checkpoint, parent.output_items, request.input, keep_s))
            except PrefixMissed as miss:
                reason, lost = miss.code, True
            except NoPlugin as missing:
                reason, keep_s = missing.reason, None
        # Only here is history read at all.
        history = await self._history(asked)
        seeds: tuple[bytes, ...] = ()
        if lost and keep_s is not None and parent and self._seeds:
            seeds = await self._seeds.of(asked.tenant, parent.response.id)
        try:
            return await answer(Whole(history, request.input, keep_s, reason, lost, seeds))
        except NoPlugin as missing:
            reason = missing.reason
        except PrefixMissed as miss:
            reason = miss.code
        return await answer(Whole(history, request.input, None, reason))

    async def _whole(self, asked: Asked) -> Whole:
        return Whole(await self._history(asked), asked.request.input, None, "")

    async def _history(self, asked: Asked) -> tuple[Segment, ...]:
        if asked.parent is None:
            return ()
        return tuple(await self._store.history(asked.tenant, asked.parent.response.id))
