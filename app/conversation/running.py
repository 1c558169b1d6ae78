"""The life of a turn once vLLM has it: stream, commit, and only then complete.

What is kept for a worker that will have lost it is written after that.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from app.conversation import response as body
from app.conversation.diagnostics import diagnose
from app.conversation.engine import AnswerStream, Generation
from app.conversation.events import EventAssembler
from app.conversation.output import Event, new_id
from app.conversation.plan import TurnRequest
from app.conversation.records import Item, Parent, ResponseId, ResponseStore, StoredResponse, TenantId, Turn
from app.conversation.sealing import Sealer
from app.conversation.seeds import Seeds
from app.errors import MarginaliaError


@dataclass(frozen=True, slots=True)
class Asked:
    """A turn as its client asked for it, with the responses that it names."""

    request: TurnRequest
    tenant: TenantId
    parent: Parent | None
    compared: Parent | None


class RunningTurn:
    """A turn that vLLM works on. Leaving it early aborts the generation and keeps nothing."""

    def __init__(
        self,
        store: ResponseStore,
        seeds: Seeds | None,
        sealer: Sealer | None,
        asked: Asked,
        generation: Generation,
        answer: AnswerStream,
        stack: AsyncExitStack,
    ) -> None:
        self.id = ResponseId(new_id("resp"))
        self.answer = answer
        self.failure: MarginaliaError | None = None
        """Why it failed, once `events()` ended with that."""
        self._store = store
        self._seeds = seeds
        self._seal = partial(sealer.sealed, asked.tenant) if sealer else None
        self._asked = asked
        self._request = asked.request
        self._stack = stack
        self._seed: bytes | None = None
        self._created_at = datetime.now(UTC)
        self._body = body.new_body(
            asked.request, self.id, generation.model, self._created_at, answer.path, answer.reason
        )

    async def aclose(self) -> None:
        await self._stack.aclose()

    async def settle(self) -> None:
        """What no client waits for: keep the token ids of a turn that was committed. Call it once the
        answer has gone out; without, a later reseed tokenizes more."""
        if self._seeds is not None and self._seed is not None:
            self._seeds.keep(self._asked.tenant, self.id, self._seed)

    async def events(self) -> AsyncIterator[list[Event]]:
        """The response's events, those that come at once together. The last is `response.completed` or
        `.incomplete`, after the commit, or `response.failed`, with nothing kept."""
        assembler = EventAssembler(self._body, seal=self._seal, summarise=self._request.summarise)
        try:
            yield assembler.start()
            finish_reason = None
            async for delta in self.answer.deltas():
                finish_reason = delta.finish_reason or finish_reason
                if self._request.generate and (events := assembler.add(delta)):
                    yield events
            if self._request.generate:
                if assembler.in_a_call and self._is_at_limit():
                    # vLLM 0.26 says `tool_calls` of an answer that called a tool, however it ended.
                    finish_reason = "length"
                ending = body.ending(finish_reason)
                if events := assembler.end(ending["status"]):
                    yield events
            else:
                ending = body.ending(None)
            self._body |= ending | body.accounts(self._request, self.answer.usage, self.answer.outcome)
            if self._request.compare:
                self._body["prompt_cache_diagnostics"] = self._diagnosis()
            if self._request.store:
                await self._commit(tuple(assembler.output))
        except MarginaliaError as exc:
            self.failure = exc
            self._body |= body.failure(exc)
        finally:
            await self.aclose()
        yield [assembler.final()]

    def _is_at_limit(self) -> bool:
        limit = self._request.options.max_output_tokens
        return limit is not None and self.answer.usage.output_tokens >= limit

    def _diagnosis(self) -> dict[str, Any]:
        compared = self._asked.compared
        return diagnose(
            compared.response.body if compared else None,
            self._body,
            self.answer.usage,
            self.answer.outcome.common,
        )

    async def _commit(self, output: tuple[Item, ...]) -> None:
        parent = self._asked.parent.response if self._asked.parent else None
        stored = StoredResponse(
            id=self.id,
            tenant=self._asked.tenant,
            root_id=parent.root_id if parent else self.id,
            previous_response_id=parent.id if parent else None,
            created_at=self._created_at,
            body=self._body,
        )
        outcome = self.answer.outcome
        await self._store.save(Turn(stored, self._request.input, output, outcome.checkpoint))
        self._seed = outcome.seed
