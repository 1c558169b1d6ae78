"""The pool of workers: who is alive, who serves which model, who gets the next turn."""

import asyncio
from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import httpx

from app.conversation.records import Checkpoint
from app.engine.worker import VllmWorker
from app.errors import EngineUnavailable, ModelNotFound

_REFRESH_S = 5.0
_KEEPALIVE_S = 3.0
"""Less than the 5 s after which vLLM closes an idle connection: a turn must not be sent on one just then."""
_SLACK = 4
"""Turns that a worker may have more than twice the idlest one's before affinity ends."""


class WorkerPool:
    """Workers at fixed URLs. Use as an async context: inside it, a task watches them."""

    def __init__(self, urls: Sequence[str], secret: str | None) -> None:
        # No limit on connections: vLLM's own queue is the place where turns wait. Workers are on the private
        # network: a proxy that the environment names is not on the way to them.
        limits = httpx.Limits(
            max_connections=None, max_keepalive_connections=64, keepalive_expiry=_KEEPALIVE_S
        )
        self._http = httpx.AsyncClient(limits=limits, trust_env=False)
        self.workers = [VllmWorker(url.rstrip("/"), secret, self._http) for url in urls]
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "WorkerPool":
        await self.refresh()
        self._watch = asyncio.create_task(self._keep_watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._watch is not None:
            self._watch.cancel()
        await self._http.aclose()

    async def refresh(self) -> None:
        await asyncio.gather(*(worker.refresh() for worker in self.workers))

    async def pick(
        self, model: str | None, prefer: str | None = None, affinity: str | None = None
    ) -> tuple[VllmWorker, str]:
        """See conversation.engine.Engine. Among equals, the one with the fewest turns in flight."""
        await self.ping()
        offers = self._offers(model)
        if offers and not any(worker.alive for worker, _ in offers):
            # They had it when they were last seen, and may be back.
            await asyncio.gather(*(worker.refresh() for worker, _ in offers))
            offers = self._offers(model)
        able = [(worker, name) for worker, name in offers if worker.alive]
        if offers and not able:
            raise EngineUnavailable(f"No vLLM server with the model '{offers[0][1]}' can be reached.")
        if not able:
            raise ModelNotFound(f"The model '{model}' does not exist.", param="model")
        if affinity is not None and prefer is None:
            # Rendezvous hashing: where a worker comes or goes, the words of the others stay where they are.
            own = max(able, key=lambda pair: sha256(f"{affinity}\0{pair[0].url}".encode()).digest())[0]
            # One word may stand for all of an application.
            if own.running <= 2 * min(worker.running for worker, _ in able) + _SLACK:
                prefer = own.url
        return min(able, key=lambda pair: (pair[0].url != prefer, pair[0].running))

    def _offers(self, model: str | None) -> list[tuple[VllmWorker, str]]:
        """Whatever serves it, alive or not, and the name that it goes by there."""
        return [(w, m["id"]) for w in self.workers for m in w.models if model is None or m["id"] == model]

    async def ping(self) -> None:
        """See conversation.engine.Engine."""
        if not any(worker.alive for worker in self.workers):
            # One may have come back since the last look.
            await self.refresh()
        if not any(worker.alive for worker in self.workers):
            raise EngineUnavailable("No vLLM server can be reached; `marginalia doctor` says more.")

    async def forget(self, checkpoints: Sequence[Checkpoint]) -> None:
        """See conversation.engine.Engine."""
        by_url = {worker.url: worker for worker in self.workers if worker.alive}
        await asyncio.gather(*(by_url[c.worker].forget(c.ref) for c in checkpoints if c.worker in by_url))

    def models(self) -> list[dict[str, Any]]:
        """See conversation.engine.Engine."""
        found = {m["id"]: m for w in reversed(self.workers) if w.alive for m in w.models}
        # vLLM says more, such as where on its disk the model lies.
        return [{name: m[name] for name in ("id", "object", "created", "owned_by")} for m in found.values()]

    async def _keep_watch(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_S)
            await self.refresh()
