"""Attempts at a response in the background: each generates it from the start, until one is committed.

What clients can see is the log alone. An attempt that broke off is followed by another, which adds to the
log what is not in it yet (replay.py); what would pass is waited for.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import aclosing

from app.conversation import response as body
from app.conversation.background_store import BackgroundStore, Claim, Superseded
from app.conversation.output import Event
from app.conversation.plan import TurnRequest
from app.conversation.records import ResponseId, TenantId, Turn
from app.conversation.replay import Contradicted, Replay, calls_tools
from app.conversation.request_json import unpack
from app.conversation.running import Begun
from app.conversation.sealing import Sealing
from app.conversation.turns import Turns
from app.errors import (
    ConversationBusy,
    EngineError,
    EngineUnavailable,
    MarginaliaError,
    ModelNotFound,
    StoreUnavailable,
)

MOST_TRIES = 3
"""How many attempts may break off: by the service's end, or by vLLM's."""
MOST_WAITS = 25
"""How often a response may be put off: about ten minutes in all, which is more than vLLM takes to start."""
LONGEST_WAIT_S = 30.0
FLUSH_S = 0.05
CHECK_S = 0.5
"""How often an attempt that has nothing to log looks whether it may go on."""
STORE_PATIENCE_S = 20.0
"""How long an attempt goes on while Postgres cannot be reached."""

_ENDINGS = frozenset({"response.completed", "response.incomplete", "response.failed"})
_PASSING = (EngineUnavailable, StoreUnavailable, ConversationBusy, ModelNotFound)
"""What another attempt may find otherwise, and another process: it was in order when the client asked."""

logger = logging.getLogger("marginalia")


class Attempts:
    def __init__(self, store: BackgroundStore, turns: Turns, sealing: Sealing) -> None:
        self._store = store
        self._turns = turns
        self._sealing = sealing

    async def run(self, tenant: TenantId, response_id: ResponseId) -> float | None:
        """Make an attempt. Returns the seconds after which another is due; None where the response has ended.

        Cancelled, it leaves the response to another attempt.
        """
        try:
            claim = await self._store.claim(tenant, response_id)
            return None if claim is None else await self._attempt(claim)
        except Superseded:
            return None
        except StoreUnavailable as exc:
            logger.warning("A response in the background waits: %s", exc.message)
            return LONGEST_WAIT_S

    async def _attempt(self, claim: Claim) -> float | None:
        attempt = _Attempt(self._store, self._turns, claim)
        try:
            error = _hopeless(claim) or await attempt.run(await self._request(claim))
        except asyncio.CancelledError:
            # It is no fault of the response's.
            await asyncio.shield(self._store.release(claim, tries=claim.tries - 1, waits=claim.waits))
            raise
        except MarginaliaError as exc:
            error = exc
        except Contradicted:
            error = MarginaliaError(
                "The response was interrupted, and could not be repeated as it had begun."
            )
        except Superseded:
            raise
        except Exception as exc:
            logger.error("unexpected error in the background", exc_info=exc)
            error = MarginaliaError("The server had an error.")
        return None if error is None else await self._after(claim, attempt, error)

    async def _request(self, claim: Claim) -> TurnRequest:
        return unpack((await self._sealing.requests()).open(claim.tenant, claim.request))

    async def _after(self, claim: Claim, attempt: "_Attempt", error: MarginaliaError) -> float | None:
        if isinstance(error, _PASSING) and claim.waits < MOST_WAITS:
            await self._store.release(claim, tries=claim.tries - 1, waits=claim.waits + 1)
            return min(2.0**claim.waits, LONGEST_WAIT_S)
        if isinstance(error, EngineError) and claim.tries < MOST_TRIES:
            await self._store.release(claim, tries=claim.tries, waits=claim.waits)
            return float(claim.tries)
        await attempt.fail(error)
        return None


def _hopeless(claim: Claim) -> MarginaliaError | None:
    """Why there is to be no other attempt."""
    if claim.tries > MOST_TRIES:
        return MarginaliaError(f"The response was interrupted {MOST_TRIES} times.")
    if calls_tools(claim.events):
        return MarginaliaError(
            "The response was interrupted when it had called a tool: that is not done twice."
        )
    return None


class _Attempt:
    """One attempt: the turn, and beside it a task that logs its events and notices where it may not go on."""

    def __init__(self, store: BackgroundStore, turns: Turns, claim: Claim) -> None:
        self._store = store
        self._turns = turns
        self._claim = claim
        self._replay = Replay(claim.events)
        self._unwritten: list[Event] = []
        self._sampled: dict[int, list[int]] = {}
        """Of those."""
        self._heard: list[int] = []
        """Ids since the last event."""
        self._again = len(claim.sampled)
        """How many ids come that the log has already."""
        self._writing = asyncio.Lock()
        self._saved = False

    async def run(self, request: TurnRequest) -> MarginaliaError | None:
        """Returns why it failed; None once the turn is committed. Raises Superseded, Contradicted,
        StoreUnavailable."""
        turn = asyncio.create_task(self._turn(request))
        log = asyncio.create_task(self._keep_log())
        try:
            await asyncio.wait({turn, log}, return_when=asyncio.FIRST_COMPLETED)
            if not turn.done():
                await log
            return await turn
        finally:
            for task in (turn, log):
                task.cancel()
            await asyncio.wait({turn, log})

    async def fail(self, error: MarginaliaError) -> None:
        """End the response. Raises Superseded."""
        failed = {**self._claim.body, **body.failure(error)}
        last = self._replay.last({"type": "response.failed", "response": {**failed, "output": []}})
        await self._store.fail(self._claim, failed, [*self._unwritten, last])

    async def _turn(self, request: TurnRequest) -> MarginaliaError | None:
        claim = self._claim
        begun = Begun(claim.id, claim.created_at, self._replay.items, self._save, claim.sampled, self._hear)
        turn = await self._turns.start(request, claim.tenant, begun)
        try:
            async with aclosing(turn.events()) as answer:
                async for events in answer:
                    new = self._replay.add(event for event in events if event["type"] not in _ENDINGS)
                    self._unwritten += new
                    if new and self._heard:
                        # With the first of their words, or before: what is read can be gone on from.
                        self._sampled[new[0]["sequence_number"]], self._heard = self._heard, []
                    if calls_tools(new):
                        # Before it is called, it has to be known that it was.
                        await self._patiently(self._flush)
        finally:
            await turn.aclose()
        await turn.settle()
        return turn.failure

    def _hear(self, sampled: tuple[int, ...]) -> None:
        new = sampled[self._again :]
        self._again -= len(sampled) - len(new)
        self._heard += new

    async def _save(self, turn: Turn) -> None:
        self._replay.end()
        response = turn.response.body
        whole = {**response, "output": list(turn.output_items)}
        last = self._replay.last({"type": f"response.{response['status']}", "response": whole})

        async def save() -> None:
            async with self._writing:
                await self._store.save(self._claim, turn, [*self._unwritten, last])
                self._saved = True

        await self._patiently(save)

    async def _keep_log(self) -> None:
        """Until the turn is committed."""
        loop = asyncio.get_running_loop()
        looked = loop.time()
        while not self._saved:
            await asyncio.sleep(FLUSH_S)
            if self._unwritten or loop.time() - looked >= CHECK_S:
                await self._patiently(self._flush)
                looked = loop.time()

    async def _flush(self) -> None:
        async with self._writing:
            if not self._saved:
                events = [*self._unwritten]
                await self._store.append(self._claim, events, self._sampled)
                del self._unwritten[: len(events)]
                for event in events:
                    self._sampled.pop(event["sequence_number"], None)

    async def _patiently(self, write: Callable[[], Awaitable[None]]) -> None:
        """Again while Postgres cannot be reached, for some time: what is written twice is the same."""
        loop = asyncio.get_running_loop()
        until = loop.time() + STORE_PATIENCE_S
        while True:
            try:
                return await write()
            except StoreUnavailable:
                if loop.time() > until:
                    raise
                await asyncio.sleep(CHECK_S)
