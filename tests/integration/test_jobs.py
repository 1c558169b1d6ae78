"""The queue of responses in the background: what is swept, and that nothing ends the sweeping."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from sqlalchemy import text

from app.conversation.records import ConversationId, ResponseId, TenantId
from app.jobs.queue import SCHEMA, SWEEP_MOST, JobQueue
from app.store.database import Database, libpq_parameters

ALIVE = """
WITH worker AS (
    INSERT INTO procrastinate_workers (last_heartbeat) VALUES (now() + interval '1 hour') RETURNING id
)
UPDATE procrastinate_jobs SET status = 'doing', worker_id = worker.id
FROM worker WHERE queueing_lock = %(key)s
"""
"""The job is being made, by a worker that gives signs of life."""


class Left:
    """Responses that were left. fails: what sweeping raises, once."""

    def __init__(self, tenant: TenantId) -> None:
        self.tenant = tenant
        self.ids = [ResponseId(f"resp_{secrets.token_hex(4)}") for _ in range(3)]
        self.fails: Exception | None = None
        self.asked = asyncio.Event()
        self.most = 0

    @asynccontextmanager
    async def sweeping(self) -> AsyncIterator[bool]:
        if fails := self.fails:
            self.fails = None
            raise fails
        yield True

    async def unended(
        self, older_than_s: float, most: int
    ) -> list[tuple[TenantId, ResponseId, ConversationId | None]]:
        self.most = most
        self.asked.set()
        return [(self.tenant, response_id, None) for response_id in self.ids]


def queue_of(database: Database, left: Any) -> JobQueue:
    async def run(tenant: TenantId, response_id: ResponseId) -> None: ...

    url = database.engine.url.render_as_string(hide_password=False)
    return JobQueue(libpq_parameters(url), left, run, concurrency=0, stalled_after_s=0.01)


async def jobs(database: Database, tenant: TenantId) -> list[tuple[str, str]]:
    columns = f"SELECT args->>'response_id', status FROM {SCHEMA}.procrastinate_jobs"
    listed = text(f"{columns} WHERE args->>'tenant' = :tenant ORDER BY id")
    async with database.reading() as connection:
        rows = await connection.execute(listed, {"tenant": tenant})
        return [tuple(row) for row in rows]


async def test_what_has_no_job_is_given_one_and_what_has_one_no_other(
    database: Database, tenant: TenantId
) -> None:
    left = Left(tenant)
    async with queue_of(database, left) as queue:
        running, waiting, lost = left.ids
        await queue.put(tenant, running, None)
        await queue._app.connector.execute_query_async(ALIVE, key=f"{tenant}/{running}")
        await queue.put(tenant, waiting, None)
        await queue._sweep()
        await queue._sweep()
        found = await jobs(database, tenant)
    assert found == [(running, "doing"), (waiting, "todo"), (lost, "todo")]
    assert left.most == SWEEP_MOST


@pytest.mark.parametrize("fails", [ValueError("of any kind"), KeyError("x")])
async def test_no_error_ends_the_sweeping(
    database: Database, tenant: TenantId, fails: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    left = Left(tenant)
    left.fails = fails
    async with queue_of(database, left) as queue:
        sweeping = asyncio.create_task(queue._sweep_often())
        await asyncio.wait_for(left.asked.wait(), 60)
        sweeping.cancel()
        await asyncio.wait({sweeping})
    assert f"were not looked for: {type(fails).__name__}" in caplog.text
    assert str(fails) not in caplog.text.replace(type(fails).__name__, "")
