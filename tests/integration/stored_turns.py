"""Turns for the store's tests. Names are ids; `saved` also commits one."""

from datetime import UTC, datetime, timedelta
from typing import Any

from app.conversation.records import (
    Checkpoint,
    Item,
    ResponseId,
    ResponseStore,
    Segment,
    StoredResponse,
    TenantId,
    Turn,
)
from app.prefix.wire import Boundary

NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
PROOF = (Boundary(12, 3, "00" * 16), Boundary(2**40, 2**31, "0123456789abcdef" * 2))


def message(role: str, content: str) -> Item:
    return {"type": "message", "role": role, "content": content}


def checkpoint(name: str) -> Checkpoint:
    return Checkpoint(f"ref_{name}", "ab" * 16, 117_000, "fp", PROOF, "http://w:1", NOW + timedelta(hours=1))


def turn(tenant: TenantId, name: str, after: Turn | None = None, *, cached: bool = True, **body: Any) -> Turn:
    response = StoredResponse(
        id=ResponseId(name),
        tenant=tenant,
        root_id=after.response.root_id if after else ResponseId(name),
        previous_response_id=after.response.id if after else None,
        created_at=NOW,
        body={"model": "m", "instructions": None, **body},
    )
    items = (message("user", f"in {name}"), message("user", "more")), (message("assistant", f"out {name}"),)
    return Turn(response, *items, checkpoint(name) if cached else None)


async def saved(store: ResponseStore, tenant: TenantId, name: str, after: Turn | None = None) -> Turn:
    made = turn(tenant, name, after)
    await store.save(made)
    return made


def segment(of: Turn) -> Segment:
    return Segment(of.input_items, of.output_items)
