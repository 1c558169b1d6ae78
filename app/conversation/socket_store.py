"""Turns of one WebSocket that are not to be stored: in memory while it is open, over the real store."""

import json
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

from app.conversation.records import (
    Checkpoint,
    Item,
    ItemPage,
    Paging,
    Parent,
    ResponseId,
    ResponsePage,
    ResponseStore,
    Segment,
    StoredResponse,
    TenantId,
    Turn,
)

Key = tuple[TenantId, ResponseId]

LIMIT_BYTES = 64 << 20
"""What one request may carry: a client can send again whatever is dropped here."""

_TURN_BYTES = 2048
_BOUNDARY_BYTES = 256
_ID_BYTES = 128
"""About what Python needs for a turn without its texts, for each boundary of its proof and each item's id."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A turn as JSON: a third of what it needs as objects, and nobody can change it.

    response: without its body. item_ids: those of its items that have one.
    """

    response: StoredResponse
    body: bytes
    input_items: bytes
    output_items: bytes
    item_ids: frozenset[str]
    checkpoint: Checkpoint | None

    @property
    def size(self) -> int:
        """Bytes, about."""
        texts = len(self.body) + len(self.input_items) + len(self.output_items)
        boundaries = len(self.checkpoint.proof) if self.checkpoint else 0
        return _TURN_BYTES + texts + _BOUNDARY_BYTES * boundaries + _ID_BYTES * len(self.item_ids)

    def stored(self) -> StoredResponse:
        return replace(self.response, body=json.loads(self.body))

    def output(self) -> tuple[Item, ...]:
        return tuple(json.loads(self.output_items))

    def segment(self) -> Segment:
        return Segment(tuple(json.loads(self.input_items)), self.output())


def _kept(turn: Turn) -> _Kept:
    ids = (item.get("id") for item in (*turn.input_items, *turn.output_items))
    return _Kept(
        response=replace(turn.response, body={}),
        body=_packed(turn.response.body),
        input_items=_packed(turn.input_items),
        output_items=_packed(turn.output_items),
        item_ids=frozenset(item_id for item_id in ids if isinstance(item_id, str)),
        checkpoint=turn.checkpoint,
    )


def _packed(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


class SocketStore:
    """A ResponseStore that also knows the turns that `keep` was given.

    They take `limit_bytes` at most: of those that no other one continues, the one that was made or continued
    longest ago goes first. So the branch of a conversation that is in use stays whole, from its root on.
    """

    def __init__(self, store: ResponseStore, limit_bytes: int = LIMIT_BYTES) -> None:
        self._store = store
        self._limit_bytes = limit_bytes
        self._turns: OrderedDict[Key, _Kept] = OrderedDict()
        """By last use, the longest ago first."""
        self._children: Counter[Key] = Counter()
        self.bytes_used = 0

    async def keep(self, turn: Turn) -> None:
        """Instead of `save`, for a turn that is not to be stored."""
        kept = _kept(turn)
        self._turns[turn.response.tenant, turn.response.id] = kept
        if parent := self._parent_of(kept):
            self._children[parent] += 1
        self.bytes_used += kept.size
        while self.bytes_used > self._limit_bytes:
            self._drop_one()

    def holds(self, tenant: TenantId, response_id: ResponseId) -> bool:
        """Whether it is one of those that are not stored."""
        return (tenant, response_id) in self._turns

    def checkpoints(self) -> list[Checkpoint]:
        """Of all turns that are kept here."""
        return [kept.checkpoint for kept in self._turns.values() if kept.checkpoint]

    async def parent(self, tenant: TenantId, response_id: ResponseId) -> Parent | None:
        kept = self._turns.get((tenant, response_id))
        if kept is None:
            return await self._store.parent(tenant, response_id)
        self._turns.move_to_end((tenant, response_id))
        return Parent(kept.stored(), kept.output(), kept.checkpoint)

    async def history(self, tenant: TenantId, response_id: ResponseId) -> list[Segment]:
        line = [*self._line((tenant, response_id))]
        before = line[-1].response.previous_response_id if line else response_id
        stored = await self._store.history(tenant, before) if before else []
        return [*stored, *(kept.segment() for kept in reversed(line))]

    async def items(self, tenant: TenantId, item_ids: Collection[str]) -> dict[str, Item]:
        found = await self._store.items(tenant, item_ids)
        wanted = frozenset(item_ids)
        holders = [
            kept
            for (owner, _), kept in self._turns.items()
            if owner == tenant and not wanted.isdisjoint(kept.item_ids)
        ]
        for kept in sorted(holders, key=lambda kept: kept.response.created_at):
            segment = kept.segment()
            items = (*segment.input_items, *segment.output_items)
            found |= {item["id"]: item for item in items if item.get("id") in wanted}
        return found

    async def get(
        self, tenant: TenantId, response_id: ResponseId
    ) -> tuple[StoredResponse, tuple[Item, ...]] | None:
        return await self._store.get(tenant, response_id)

    async def save(self, turn: Turn) -> None:
        await self._store.save(turn)

    async def delete(self, tenant: TenantId, response_id: ResponseId) -> list[Checkpoint] | None:
        return await self._store.delete(tenant, response_id)

    async def save_seed(self, tenant: TenantId, response_id: ResponseId, seed: bytes) -> None:
        await self._store.save_seed(tenant, response_id, seed)

    async def seeds(self, tenant: TenantId, response_id: ResponseId) -> list[bytes]:
        return await self._store.seeds(tenant, response_id)

    async def input_items(self, tenant: TenantId, response_id: ResponseId, paging: Paging) -> ItemPage | None:
        return await self._store.input_items(tenant, response_id, paging)

    async def responses(self, tenant: TenantId, paging: Paging) -> ResponsePage:
        return await self._store.responses(tenant, paging)

    async def key(self, name: str) -> bytes:
        return await self._store.key(name)

    async def ping(self) -> None:
        await self._store.ping()

    def _parent_of(self, kept: _Kept) -> Key | None:
        """Where that is kept here too."""
        previous = kept.response.previous_response_id
        key = (kept.response.tenant, previous) if previous else None
        return key if key in self._turns else None

    def _line(self, key: Key) -> Iterator[_Kept]:
        """From a turn back to the first one of its conversation that is kept here."""
        at: Key | None = key if key in self._turns else None
        while at is not None:
            kept = self._turns[at]
            yield kept
            at = self._parent_of(kept)

    def _drop_one(self) -> None:
        key = next(key for key in self._turns if not self._children[key])
        kept = self._turns.pop(key)
        del self._children[key]
        self.bytes_used -= kept.size
        if parent := self._parent_of(kept):
            self._children[parent] -= 1
