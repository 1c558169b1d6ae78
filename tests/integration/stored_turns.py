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


def message(role: str, content: str, item_id: str | None = None) -> Item:
    item = {"type": "message", "role": role, "content": content}
    return item if item_id is None else {"id": item_id, **item}


def checkpoint(name: str) -> Checkpoint:
    return Checkpoint(f"ref_{name}", "ab" * 16, 117_000, "fp", PROOF, "http://w:1", NOW + timedelta(hours=1))


def turn(
    tenant: TenantId,
    name: str,
    after: Turn | None = None,
    *,
    cached: bool = True,
    at: int = 0,
    **body: Any,
) -> Turn:
    """at: microseconds after NOW."""
    response = StoredResponse(
        id=ResponseId(name),
        tenant=tenant,
        root_id=after.response.root_id if after else ResponseId(name),
        previous_response_id=after.response.id if after else None,
        created_at=NOW + timedelta(microseconds=at),
        body={"model": "m", "instructions": None, **body},
    )
    asked = message("user", f"in {name}", f"msg_{name}_0"), message("user", "more", f"msg_{name}_1")
    answered = (message("assistant", f"out {name}", f"msg_{name}_2"),)
    return Turn(response, asked, answered, checkpoint(name) if cached else None)


async def saved(
    store: ResponseStore, tenant: TenantId, name: str, after: Turn | None = None, **changes: Any
) -> Turn:
    made = turn(tenant, name, after, **changes)
    await store.save(made)
    return made


def segment(of: Turn) -> Segment:
    return Segment(of.input_items, of.output_items)
