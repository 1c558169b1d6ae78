"""The queue of responses in the background: procrastinate's, in our Postgres.

A job says which response is due and nothing else: what became of it stands with the response, and a job that
comes too often does nothing. So a job may be lost or doubled; whoever sweeps puts a lost one there again.
"""

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any

from procrastinate import App, BaseRetryStrategy, PsycopgConnector, RetryDecision
from procrastinate.exceptions import AlreadyEnqueued, ConnectorException, UniqueViolation
from procrastinate.jobs import Job, Status
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from app.conversation.background_store import BackgroundStore
from app.conversation.records import ConversationId, ResponseId, TenantId
from app.errors import StoreUnavailable

SCHEMA = "marginalia_queue"
QUEUE = "responses"
TASK = "respond"
POLL_S = 1.0
"""A job that is tried again is not announced by Postgres."""
RESTART_S = 2.0
POOL_TIMEOUT_S = 10.0
STOP_S = 10.0
"""How long the end of the process waits for running jobs to be given back."""
SWEEP_MOST = 500
"""How many responses are looked after at once: the oldest."""

_THERE = (
    "SELECT queueing_lock FROM procrastinate_jobs "
    "WHERE queue_name = %(queue)s AND status IN ('todo', 'doing') AND queueing_lock = ANY(%(keys)s)"
)

logger = logging.getLogger("marginalia")


class JobQueue:
    """Use as an async context: inside it, this process makes up to `concurrency` responses at once.

    run: makes an attempt and returns after how many seconds another is due, None for none. stalled_after_s:
    a process that gives no sign of life for as long is taken for dead, and its jobs go to others.
    """

    def __init__(
        self,
        connection: Mapping[str, Any],
        store: BackgroundStore,
        run: Callable[[TenantId, ResponseId], Awaitable[float | None]],
        *,
        concurrency: int,
        stalled_after_s: float,
    ) -> None:
        """connection: libpq's parameters."""
        self._store = store
        self._run = run
        self._concurrency = concurrency
        self._stalled_after_s = stalled_after_s
        self._pool = AsyncConnectionPool(
            kwargs=dict(connection),
            min_size=1,
            max_size=4,
            timeout=POOL_TIMEOUT_S,
            reconnect_timeout=math.inf,
            configure=_configure,
            check=AsyncConnectionPool.check_connection,
            open=False,
        )
        self._app = App(connector=PsycopgConnector(configure=_configure))
        self._task = self._app.task(name=TASK, queue=QUEUE, retry=_Later())(self._make)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "JobQueue":
        # The service starts before its database does.
        await self._pool.open(wait=False)
        self._stack.push_async_callback(self._pool.close)
        await self._stack.enter_async_context(self._app.open_async(self._pool))
        if self._concurrency:
            for work in (self._work(), self._sweep_often()):
                self._stack.push_async_callback(_ended, asyncio.create_task(work))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def put(
        self, tenant: TenantId, response_id: ResponseId, conversation: ConversationId | None
    ) -> None:
        """Those of one conversation are made one after another, as they were put. Raises StoreUnavailable."""
        # A turn that waited for its conversation in a job that runs would keep others from running.
        in_order = _key(tenant, conversation or response_id)
        due = self._task.configure(lock=in_order, queueing_lock=_key(tenant, response_id))
        try:
            await due.defer_async(tenant=tenant, response_id=response_id)
        except AlreadyEnqueued:
            pass
        except ConnectorException as exc:
            raise StoreUnavailable("The database cannot be reached.") from exc

    async def _make(self, tenant: str, response_id: str) -> None:
        again_in_s = await self._run(TenantId(tenant), ResponseId(response_id))
        if again_in_s is not None:
            raise _Again(again_in_s)

    async def _work(self) -> None:
        """A worker ends where it cannot reach the database for long; then another begins."""
        while True:
            try:
                await self._app.run_worker_async(
                    queues=[QUEUE],
                    concurrency=self._concurrency,
                    fetch_job_polling_interval=POLL_S,
                    shutdown_graceful_timeout=0,
                    delete_jobs="always",
                    install_signal_handlers=False,
                    update_heartbeat_interval=self._stalled_after_s / 4,
                    stalled_worker_timeout=self._stalled_after_s,
                )
            except Exception as exc:
                logger.warning("The worker of the background ended: %s", type(exc).__name__)
            await asyncio.sleep(RESTART_S)

    async def _sweep_often(self) -> None:
        while True:
            await asyncio.sleep(self._stalled_after_s / 4)
            try:
                async with self._store.sweeping() as mine:
                    if mine:
                        await self._sweep()
            except Exception as exc:
                # Nobody else may be there who sweeps: whatever it was, this goes on.
                logger.warning("Jobs of processes that ended were not looked for: %s", type(exc).__name__)

    async def _sweep(self) -> None:
        """Give jobs of dead workers to others, and a job to responses that have none."""
        jobs = self._app.job_manager
        for job in await jobs.get_stalled_jobs(queue=QUEUE, seconds_since_heartbeat=self._stalled_after_s):
            await self._give_back(job)
        # Later ones are not due yet, and come among the oldest once they are.
        waiting = await self._store.unended(self._stalled_after_s, SWEEP_MOST)
        if not waiting:
            return
        keys = [_key(tenant, response_id) for tenant, response_id, _ in waiting]
        rows = await self._app.connector.execute_query_all_async(_THERE, queue=QUEUE, keys=keys)
        there = {row["queueing_lock"] for row in rows}
        for key, (tenant, response_id, conversation) in zip(keys, waiting, strict=True):
            if key not in there:
                await self.put(tenant, response_id, conversation)

    async def _give_back(self, job: Job) -> None:
        try:
            await self._app.job_manager.retry_job(job)
        except UniqueViolation:
            # Another one waits for the same response, and for this one to end.
            await self._app.job_manager.finish_job(job, Status.FAILED, delete_job=True)


class _Again(Exception):
    def __init__(self, in_s: float) -> None:
        super().__init__(f"again in {in_s:g} s")
        self.in_s = in_s


class _Later(BaseRetryStrategy):
    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        if isinstance(exception, _Again):
            return RetryDecision(retry_at=datetime.now(UTC) + timedelta(seconds=exception.in_s))
        # The process ends: another one's turn.
        return RetryDecision() if isinstance(exception, asyncio.CancelledError) else None


async def _configure(connection: AsyncConnection[Any]) -> None:
    await connection.set_autocommit(True)
    await connection.execute(f"SET search_path TO {SCHEMA}")


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait({task}, timeout=STOP_S)


def _key(tenant: TenantId, made: ResponseId | ConversationId) -> str:
    return f"{tenant}/{made}"
