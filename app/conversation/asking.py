"""Asking a worker for one turn's answers, down the ladder: by reference, the whole history, vLLM's own route.

A turn has more than one where tools are called here: each further round continues the one before.
"""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from app.conversation.compaction import expand, has_compaction, opener
from app.conversation.engine import (
    AnswerStream,
    Generation,
    Margin,
    NoPlugin,
    Outcome,
    PrefixMissed,
    Whole,
    Worker,
)
from app.conversation.options import Options
from app.conversation.plan import Plan, TurnRequest
from app.conversation.records import Admission, Item, Parent, ResponseStore, Segment, TenantId
from app.conversation.rounds import said_since
from app.conversation.sealing import Sealing
from app.conversation.seeds import Seeds
from app.conversation.truncation import fitting
from app.errors import ContextLengthExceeded

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Asked:
    """A turn as its client asked for it, with the responses that it names.

    given: the request's items, as they are kept. admission: to its conversation, if it is a turn of one.
    """

    request: TurnRequest
    tenant: TenantId
    given: tuple[Item, ...]
    parent: Parent | None = None
    compared: Parent | None = None
    admission: Admission | None = None

    @property
    def input(self) -> tuple[Item, ...]:
        """All that is new since the parent: what was added to the conversation meanwhile, too."""
        return (*self.admission.pending, *self.given) if self.admission else self.given


@dataclass(frozen=True, slots=True)
class _Prompt:
    """since: what follows the prompt of the plan's checkpoint, before `new`. written: this turn's output so
    far."""

    plan: Plan
    since: tuple[Item, ...]
    new: tuple[Item, ...]
    written: tuple[Item, ...] = ()


class Asking:
    """`first` and then `again` give each round's answer; `aclose` ends the one that runs."""

    def __init__(
        self,
        store: ResponseStore,
        seeds: Seeds | None,
        worker: Worker,
        asked: Asked,
        generation: Generation,
        plan: Plan,
        sealing: Sealing,
    ) -> None:
        self.worker = worker
        self.generation = generation
        self._sealing = sealing
        self._store = store
        self._seeds = seeds
        self._asked = asked
        self._plan = plan
        self._compacted: tuple[Item, ...] = ()
        self._read: tuple[Segment, ...] | None = None
        self._running = AsyncExitStack()

    @property
    def options(self) -> Options:
        """What the next answer is asked with."""
        return self.generation.options

    @options.setter
    def options(self, options: Options) -> None:
        self.generation = replace(self.generation, options=options)

    async def first(self, written: tuple[Item, ...] = ()) -> AnswerStream:
        """Returns once vLLM has accepted the turn. written: output that comes before the model is asked.
        Raises as Worker.answer does, less misses."""
        return await self._descend(self._answer, self._prompt(written))

    async def again(self, last: Outcome, written: tuple[Item, ...], since: tuple[Item, ...]) -> AnswerStream:
        """The next round's, after one that ended in `last`. written: all rounds' output; since: its own."""
        await self.aclose()
        self.generation = replace(self.generation, said=None)
        reason = self._plan.reason if not self._plan.keep else "parent_not_cached"
        plan = Plan(last.checkpoint, None if last.checkpoint else reason, self._plan.keep)
        return await self._descend(self._answer, _Prompt(plan, since, (), written))

    async def aside(self, generation: Generation, new: tuple[Item, ...]) -> AnswerStream:
        """An answer to `new` after what came before the turn, of which nothing is kept; without the oldest
        steps, where all does not fit. `aclose` ends it too."""
        asked = replace(self._asked, given=new, admission=None)
        plan = replace(self._plan, keep=False)
        aside = Asking(self._store, self._seeds, self.worker, asked, generation, plan, self._sealing)
        aside._read = self._read
        self._running.push_async_callback(aside.aclose)
        try:
            return await aside._ladder(aside._answer, aside._prompt())
        except ContextLengthExceeded:
            whole = await aside._whole(aside._prompt())
        return await aside._answer(await fitting(self.worker, generation, whole, steps=True))

    def compacted(self, written: tuple[Item, ...]) -> None:
        """What `first` asks for begins with the compaction that is the last of `written`, the turn's
        output."""
        self._plan = Plan(None, "compacted", self._plan.keep)
        self._compacted = written

    async def items(self) -> tuple[Item, ...]:
        """All that the model would be asked with, as it is kept."""
        history = await self._history()
        before = (i for segment in history for i in (*segment.input_items, *segment.output_items))
        return (*before, *self._asked.input)

    async def count(self) -> int:
        """Tokens of the prompt that `first` would send to the engine. Raises as it does."""
        tokens = await self.count_all()
        if self._asked.request.truncate and tokens >= self.worker.context_length:
            whole = await fitting(self.worker, self.generation, await self._whole(self._prompt()))
            tokens = await self.worker.count(self.generation, whole)
        return tokens

    async def count_all(self, written: tuple[Item, ...] = ()) -> int:
        """The same with nothing left out, whether or not it fits. written: as in `first`."""
        count = partial(self.worker.count, self.generation)
        prompt = self._prompt(written)
        try:
            return await self._ladder(count, replace(prompt, plan=replace(prompt.plan, keep=False)))
        except ContextLengthExceeded:
            # By reference a prompt is counted as far as it could be answered.
            return await count(await self._whole(prompt))

    async def aclose(self) -> None:
        """Abort the answer that runs, where it has not ended."""
        await self._running.aclose()

    async def _answer(self, prompt: Margin | Whole) -> AnswerStream:
        return await self._running.enter_async_context(self.worker.answer(self.generation, prompt))

    def _prompt(self, written: tuple[Item, ...] = ()) -> _Prompt:
        if self._compacted:
            return _Prompt(self._plan, (), (), self._compacted)
        parent = self._asked.parent
        since = said_since(parent) if parent else ()
        return _Prompt(self._plan, since, (*self._asked.input, *written), written)

    async def _descend(self, ask: Callable[[Margin | Whole], Awaitable[T]], prompt: _Prompt) -> T:
        """`ask` of the first prompt that can be had: each rung of the ladder at most once, and where a
        conversation that may be truncated does not fit, without its oldest items."""
        try:
            return await self._ladder(ask, prompt)
        except ContextLengthExceeded:
            if not self._asked.request.truncate:
                raise
        return await ask(await fitting(self.worker, self.generation, await self._whole(prompt)))

    async def _ladder(self, ask: Callable[[Margin | Whole], Awaitable[T]], prompt: _Prompt) -> T:
        """By reference if planned; the whole history; vLLM's own route."""
        plan = prompt.plan
        keep_s = self._asked.request.caching.ttl_s if plan.keep else None
        reason, lost = plan.reason or "", plan.lost
        if plan.checkpoint is not None:
            try:
                return await ask(Margin(plan.checkpoint, prompt.since, prompt.new, keep_s, plan.rewound))
            except PrefixMissed as miss:
                reason, lost = miss.code, True
            except NoPlugin as missing:
                reason, keep_s = missing.reason, None
        # Only here is history read at all.
        whole = await self._whole(prompt)
        seeds = await self._seeds_of_parent() if lost and keep_s is not None else ()
        try:
            return await ask(replace(whole, keep_s=keep_s, reason=reason, lost=lost, seeds=seeds))
        except NoPlugin as missing:
            reason = missing.reason
        except PrefixMissed as miss:
            reason = miss.code
        return await ask(replace(whole, reason=reason))

    async def _whole(self, prompt: _Prompt) -> Whole:
        history, new = await self._history(), prompt.new
        if prompt.written:
            history, new = (*history, Segment(self._asked.input, prompt.written)), ()
        history, new = await self._expanded(history, new)
        return Whole(history, new, None, "")

    async def _expanded(
        self, history: tuple[Segment, ...], new: tuple[Item, ...]
    ) -> tuple[tuple[Segment, ...], tuple[Item, ...]]:
        items = [*new, *(i for segment in history for i in (*segment.input_items, *segment.output_items))]
        if not has_compaction(items):
            return history, new
        return expand(history, new, await opener(self._sealing, self._asked.tenant))

    async def _history(self) -> tuple[Segment, ...]:
        parent = self._asked.parent
        if parent is None:
            return ()
        if self._read is None:
            self._read = tuple(await self._store.history(self._asked.tenant, parent.response.id))
        return self._read

    async def _seeds_of_parent(self) -> tuple[bytes, ...]:
        parent = self._asked.parent
        if self._seeds is None or parent is None:
            return ()
        return await self._seeds.of(self._asked.tenant, parent.response.id)
