"""The life of a turn until vLLM has it: take its conversation's turn, read the parent, plan, and ask."""

import time
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from app.conversation.approvals import approved, check_servers
from app.conversation.asking import Asked, Asking
from app.conversation.compacting import Compactor, options_of
from app.conversation.compaction import has_compaction, opener, reduced, since_compaction
from app.conversation.conversations import Conversations
from app.conversation.engine import Engine, Generation
from app.conversation.hosted import ToolServers
from app.conversation.hosted_turn import HostedTurn
from app.conversation.inputs import check_calls, check_question, resolve
from app.conversation.output import new_id
from app.conversation.plan import TurnRequest, plan_turn
from app.conversation.records import Admission, Item, Parent, ResponseId, ResponseStore, TenantId, Turn
from app.conversation.response import usage_as_json
from app.conversation.running import Begun, RunningTurn, Save
from app.conversation.sealing import Sealing
from app.conversation.seeds import Seeds
from app.errors import InvalidRequest, PreviousResponseNotFound
from app.prefix.wire import Policy


class Turns:
    """Runs turns. `namespace` gives a tenant's scope of references and KV cache; without `seeds`, no token
    ids are kept. unstored: what becomes of turns that are not to be stored; without it, nothing."""

    def __init__(
        self,
        store: ResponseStore,
        engine: Engine,
        namespace: Callable[[str], str],
        policy: Policy,
        seeds: Seeds | None,
        sealing: Sealing,
        *,
        conversations: Conversations,
        tool_servers: ToolServers,
        unstored: Save | None = None,
    ) -> None:
        self._store = store
        self._engine = engine
        self._namespace = namespace
        self._policy: Policy = policy
        self._seeds = seeds
        self._sealing = sealing
        self._conversations = conversations
        self._tool_servers = tool_servers
        self._unstored = unstored

    def over(self, store: ResponseStore, unstored: Save) -> "Turns":
        """The same, on another store, with what becomes of turns that are not to be stored."""
        return Turns(
            store,
            self._engine,
            self._namespace,
            self._policy,
            self._seeds,
            self._sealing,
            conversations=self._conversations,
            tool_servers=self._tool_servers,
            unstored=unstored,
        )

    async def start(self, request: TurnRequest, tenant: TenantId, begun: Begun | None = None) -> RunningTurn:
        """Returns once vLLM has accepted the turn, with nothing generated yet; or before, where something
        comes first that takes time: tools that are called here, a summary of what came before.

        Raises what is the request's fault (InvalidRequest, NotFound, ConversationBusy) or the machine's
        (EngineError, StoreUnavailable). The caller iterates `events()` to its end, or calls `aclose()`; then
        `settle()`. begun: the response that the turn is for, where there is one already.
        """
        async with AsyncExitStack() as stack:
            admission = None
            if request.conversation is not None:
                # What is made in the background is put off: a job that waits would keep others from running.
                admitted = self._conversations.admit(
                    tenant, request.conversation, request.input, may_wait=begun is None
                )
                admission = await stack.enter_async_context(admitted)
            asking, asked = await self._prepare(request, tenant, admission)
            stack.push_async_callback(asking.aclose)
            asking.generation = replace(asking.generation, said=begun.said if begun else None)
            sealer = await self._sealing.sealer() if request.seal_reasoning else None
            hosted = None
            if request.mcp:
                sessions = await stack.enter_async_context(self._tool_servers.turn())
                hosted = HostedTurn(request, sessions, asked.parent, asked.input)
            later = hosted or request.compact or request.compact_at
            answer = None if later else await asking.first()
            return RunningTurn(
                asked,
                asking,
                answer,
                hosted,
                Compactor(asking, asked, self._sealing),
                seeds=self._seeds,
                sealer=sealer,
                save=self._save(request, begun),
                begun=begun,
                stack=stack.pop_all(),
            )

    async def count(self, request: TurnRequest, tenant: TenantId) -> int:
        """Tokens of the prompt that `start` would send to the engine. Raises as it does."""
        asking, asked = await self.look(request, tenant)
        if request.mcp:
            async with self._tool_servers.turn() as sessions:
                hosted = HostedTurn(request, sessions, asked.parent, asked.input)
                await hosted.list_tools()
            asking.options = hosted.options(asking.options)
        return await asking.count()

    async def look(self, request: TurnRequest, tenant: TenantId) -> tuple[Asking, Asked]:
        """What `start` would ask, as things stand. Raises as it does before it asks."""
        admission = None
        if request.conversation is not None:
            admission = await self._conversations.look(tenant, request.conversation, request.input)
        return await self._prepare(request, tenant, admission)

    async def compact(self, request: TurnRequest, tenant: TenantId) -> dict[str, Any]:
        """A CompactedResponse: the conversation as one item. Nothing is stored. Raises as `start` does."""
        parent = await self._parent(tenant, request.previous_response_id)
        if parent is not None:
            request = replace(request, options=options_of(parent.response.body, request.options))
        asking, asked = await self._prepare(request, tenant, None)
        async with aclosing(asking):
            made = await Compactor(asking, asked, self._sealing).compact()
        return {
            "id": new_id("resp"),
            "object": "response.compaction",
            "created_at": int(time.time()),
            "output": [{"type": "compaction", "id": new_id("cmp"), "encrypted_content": made.sealed}],
            "usage": usage_as_json(made.usage),
        }

    async def _prepare(
        self, request: TurnRequest, tenant: TenantId, admission: Admission | None
    ) -> tuple[Asking, Asked]:
        given = await resolve(request.input, self._store, tenant, self._sealing)
        # A conversation in which nobody has answered yet may start from another response.
        head = admission.head if admission else None
        parent = await self._parent(tenant, head or request.previous_response_id)
        compared = await self._store.parent(tenant, request.compare) if request.compare else None
        asked = Asked(request, tenant, given, parent, compared, admission)
        before, pending = parent.output_items if parent else (), admission.pending if admission else ()
        if request.compact and not (parent or pending or given):
            raise InvalidRequest("There is nothing to compact.", param="input")
        if has_compaction((*before, *pending, *given)):
            await self._check_compacted(asked, (*before, *pending))
        else:
            check_calls(before, given, pending, answers=not request.compact)
        if not request.compact:
            check_servers(approved(before, asked.input), {server.label for server in request.mcp})
        if not given and request.generate and not request.compact and (parent is None or before or pending):
            check_question((*before, *pending))
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
        plan = plan_turn(
            request,
            generation,
            parent,
            worker.prefix_refusal,
            datetime.now(UTC),
            changed=admission.changed if admission else None,
            kept=request.store or self._unstored is not None or bool(request.mcp),
            compacted=has_compaction((*pending, *given)),
        )
        return Asking(self._store, self._seeds, worker, asked, generation, plan, self._sealing), asked

    async def _check_compacted(self, asked: Asked, before: tuple[Item, ...]) -> None:
        """check_calls, where calls may be in what a compaction stands for."""
        since = since_compaction(asked.given)
        first = len(asked.given) - len(since)
        open_ = await opener(self._sealing, asked.tenant)
        known = reduced((*before, *asked.given[:first]), open_)[1]
        check_calls(known, since, first=first, answers=not asked.request.compact)

    async def _parent(self, tenant: TenantId, response_id: ResponseId | None) -> Parent | None:
        if response_id is None:
            return None
        parent = await self._store.parent(tenant, response_id)
        if parent is None:
            raise PreviousResponseNotFound(
                f"Previous response with id '{response_id}' not found.", param="previous_response_id"
            )
        if (status := parent.response.body["status"]) not in ("completed", "incomplete"):
            message = f"Previous response with id '{response_id}' cannot be continued: it is {status}."
            raise InvalidRequest(message, param="previous_response_id")
        return parent

    def _save(self, request: TurnRequest, begun: Begun | None) -> Save:
        if begun is not None:
            return begun.save
        return self._store.save if request.store else self._not_stored

    async def _not_stored(self, turn: Turn) -> None:
        if turn.appended is not None:
            await self._conversations.append(turn.response.tenant, turn.appended)
        if self._unstored is not None:
            # No other turn can continue it by the conversation.
            await self._unstored(replace(turn, appended=None))
