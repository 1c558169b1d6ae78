"""The life of a turn once vLLM has it: stream, call tools and ask again, commit, and only then complete.

What is kept for a worker that will have lost it is written after that.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from app.conversation import response as body
from app.conversation.asking import Asked, Asking
from app.conversation.compacting import Compactor
from app.conversation.diagnostics import diagnose
from app.conversation.engine import AnswerStream
from app.conversation.events import EventAssembler
from app.conversation.hosted_turn import HostedTurn, settled
from app.conversation.output import Event, new_id
from app.conversation.records import Appended, Item, ResponseId, StoredResponse, Turn
from app.conversation.rounds import Rounds
from app.conversation.sealing import Sealer
from app.conversation.seeds import Seeds
from app.errors import MarginaliaError

Save = Callable[[Turn], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Begun:
    """A response that there is before its turn: one in the background.

    items: those that an attempt which broke off had opened, in order: theirs are the ids. said: the tokens
    that its answer had. save: the commit. hear: is told the ids of the answer's tokens, from the first on and
    before their text, where it can be gone on from them.
    """

    id: ResponseId
    created_at: datetime
    items: tuple[Item, ...]
    save: Save
    said: tuple[int, ...] | None = None
    hear: Callable[[tuple[int, ...]], None] | None = None


class RunningTurn:
    """A turn that vLLM works on. Leaving it early aborts the generation and keeps nothing."""

    def __init__(
        self,
        asked: Asked,
        asking: Asking,
        answer: AnswerStream | None,
        hosted: HostedTurn | None,
        compactor: Compactor,
        *,
        seeds: Seeds | None,
        sealer: Sealer | None,
        save: Save,
        begun: Begun | None,
        stack: AsyncExitStack,
    ) -> None:
        """answer: of the first round; None where `events` asks for it, once what comes before is done."""
        self.id = begun.id if begun else ResponseId(new_id("resp"))
        self.failure: MarginaliaError | None = None
        """Why it failed, once `events()` ended with that."""
        self._asked = asked
        self._request = asked.request
        self._asking = asking
        self._answer = answer
        self._hosted = hosted
        self._compactor = compactor
        self._rounds = Rounds()
        self._seeds = seeds
        self._seal = partial(sealer.sealed, asked.tenant) if sealer else None
        self._save = save
        self._stack = stack
        self._seed: bytes | None = None
        self._created_at = begun.created_at if begun else datetime.now(UTC)
        self._begun_items = begun.items if begun else ()
        self._hear = begun.hear if begun else None
        self._body = body.new_body(
            asked.request, self.id, asking.generation.model, self._created_at, self.path, self.reason
        )

    @property
    def path(self) -> str | None:
        """What the turn does with its prefix; None as long as that is not known."""
        return self._rounds.path or (self._answer.path if self._answer else None)

    @property
    def reason(self) -> str | None:
        """Why it is not a hit."""
        return self._rounds.reason if self._rounds.path else (self._answer.reason if self._answer else None)

    async def aclose(self) -> None:
        await self._stack.aclose()

    async def settle(self) -> None:
        """What no client waits for: keep the token ids of a turn that was committed. Call it once the
        answer has gone out; without, a later reseed tokenizes more."""
        if self._seeds is not None and self._seed is not None:
            self._seeds.keep(self._asked.tenant, self.id, self._seed)

    async def events(self) -> AsyncGenerator[list[Event]]:
        """The response's events, those that come at once together. The last is `response.completed` or
        `.incomplete`, after the commit, or `response.failed`, with nothing kept."""
        assembler = EventAssembler(
            self._body,
            seal=self._seal,
            summarise=self._request.summarise,
            begun=self._begun_items,
            hosted=self._hosted,
        )
        try:
            yield assembler.start()
            async with aclosing(self._work(assembler)) as work:
                async for events in work:
                    yield events
            self._body |= body.accounts(self._request, self._rounds)
            if self._request.compare:
                self._body["prompt_cache_diagnostics"] = self._diagnosis()
            await self._commit(tuple(assembler.output))
        except MarginaliaError as exc:
            self.failure = exc
            self._body |= body.failure(exc)
        finally:
            await self.aclose()
        yield [assembler.final()]

    async def _work(self, assembler: EventAssembler) -> AsyncGenerator[list[Event]]:
        """What comes first, then rounds: an answer, and the calls in it."""
        if self._answer is None:
            if self._hosted is not None:
                async with aclosing(self._hosted.opening(assembler)) as opening:
                    async for events in opening:
                        yield events
                self._asking.options = self._hosted.options(self._asking.options)
            async with aclosing(self._compact(assembler)) as compacting:
                async for events in compacting:
                    yield events
            if self._request.compact:
                self._body |= body.ending(None)
                return
            self._answer = await self._asking.first(tuple(assembler.output[: settled(assembler.output)]))
        # How much of the output is in a prompt already.
        told = settled(assembler.output)
        while True:
            async with aclosing(self._round(assembler, self._answer)) as answering:
                async for events in answering:
                    yield events
            self._rounds.add(self._answer.usage, self._answer.outcome, told)
            if self._hosted is None or not self._request.generate or self._body["status"] != "completed":
                return
            async with aclosing(self._hosted.run(assembler)) as running:
                async for events in running:
                    yield events
            if not self._hosted.goes_on or self._is_spent():
                return
            self._asking.options = self._hosted.options(self._asking.options)
            written = tuple(assembler.output[: settled(assembler.output)])
            self._answer = await self._asking.again(self._answer.outcome, written, written[told:])
            told = len(written)

    async def _compact(self, assembler: EventAssembler) -> AsyncGenerator[list[Event]]:
        """What came before, where that was asked for, or is due."""
        written = tuple(assembler.output)
        if not self._request.compact and not await self._compactor.is_due(written):
            return
        yield assembler.compacting()
        made = await self._compactor.compact(written)
        count = self._rounds.add if self._request.compact else self._rounds.compacted
        count(made.usage, made.outcome)
        yield assembler.compacted(made.sealed)
        self._asking.compacted(tuple(assembler.output))

    async def _round(self, assembler: EventAssembler, answer: AnswerStream) -> AsyncGenerator[list[Event]]:
        """One answer of the model."""
        assembler.begin_round()
        finish_reason = None
        async for delta in answer.deltas():
            finish_reason = delta.finish_reason or finish_reason
            if delta.sampled and self._hear is not None:
                self._hear(delta.sampled)
            if self._request.generate and (events := assembler.add(delta)):
                yield events
        if not self._request.generate:
            self._body |= body.ending(None)
            return
        if assembler.in_a_call and self._is_at_limit(answer):
            # vLLM 0.26 says `tool_calls` of an answer that called a tool, however it ended.
            finish_reason = "length"
        ending = body.ending(finish_reason)
        if events := assembler.end(ending["status"]):
            yield events
        self._body |= ending

    def _is_spent(self) -> bool:
        """Whether the rounds so far left no tokens for another, which else gets what they left."""
        if (limit := self._request.options.max_output_tokens) is None:
            return False
        left = limit - self._rounds.answered_tokens
        if left > 0:
            self._asking.options = self._asking.options.of_at_most(left)
        else:
            self._body |= body.ending("length") | {"completed_at": None}
        return left <= 0

    def _is_at_limit(self, answer: AnswerStream) -> bool:
        limit = self._asking.options.max_output_tokens
        return limit is not None and answer.usage.output_tokens >= limit

    def _diagnosis(self) -> dict[str, Any]:
        compared = self._asked.compared
        return diagnose(
            compared.response.body if compared else None,
            self._body,
            self._rounds.first_usage,
            self._rounds.first.common,
        )

    async def _commit(self, output: tuple[Item, ...]) -> None:
        parent = self._asked.parent.response if self._asked.parent else None
        admission = self._asked.admission
        stored = StoredResponse(
            id=self.id,
            tenant=self._asked.tenant,
            root_id=parent.root_id if parent else self.id,
            previous_response_id=parent.id if parent else None,
            created_at=self._created_at,
            body=self._body,
        )
        appended = None
        if admission is not None:
            appended = Appended(admission.conversation, admission.lease.token, (*self._asked.given, *output))
        last = self._rounds.last
        await self._save(Turn(stored, self._asked.input, output, last.checkpoint, appended))
        if admission is not None:
            admission.lease.ended = True
        if self._request.store:
            self._seed = self._rounds.seed
