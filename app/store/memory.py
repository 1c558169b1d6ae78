"""Responses in memory, for tests and benchmarks: the same behaviour as Postgres, by the same suite."""

import copy
import json
import secrets
from collections.abc import Collection, Iterator
from dataclasses import replace

from app.conversation.records import (
    Checkpoint,
    Item,
    ItemPage,
    Paging,
    Parent,
    ResponseId,
    ResponsePage,
    Segment,
    StoredResponse,
    TenantId,
    Turn,
)
from app.errors import PreviousResponseNotFound
from app.store.memory_conversations import MemoryConversationStore
from app.store.packing import item_key
from app.store.paging import from_on, page_of

Key = tuple[TenantId, ResponseId]


class MemoryResponseStore:
    def __init__(self) -> None:
        self._turns: dict[Key, Turn] = {}
        self._tombstones: set[Key] = set()
        self._seeds: dict[Key, bytes] = {}
        self._keys: dict[str, bytes] = {}
        self.conversations = MemoryConversationStore(lambda *key: self._live(*key) is not None)

    async def parent(self, tenant: TenantId, response_id: ResponseId) -> Parent | None:
        turn = self._live(tenant, response_id)
        return None if turn is None else Parent(turn.response, turn.output_items, turn.checkpoint)

    async def get(
        self, tenant: TenantId, response_id: ResponseId
    ) -> tuple[StoredResponse, tuple[Item, ...]] | None:
        turn = self._live(tenant, response_id)
        return None if turn is None else (turn.response, turn.output_items)

    async def history(self, tenant: TenantId, response_id: ResponseId) -> list[Segment]:
        if (tenant, response_id) not in self._turns:
            raise _gone(response_id)
        turns = [copy.deepcopy(self._turns[key]) for key in self._line((tenant, response_id))]
        return [Segment(turn.input_items, turn.output_items) for turn in reversed(turns)]

    async def save(self, turn: Turn) -> None:
        response = turn.response
        previous = response.previous_response_id
        if previous is not None and (response.tenant, previous) not in self._turns:
            raise _gone(previous)
        if (response.tenant, response.id) in self._turns:
            raise ValueError(f"response {response.id} exists")
        # What Postgres could not hold must not pass here either.
        json.dumps([response.body, turn.input_items, turn.output_items], allow_nan=False)
        if turn.appended is not None:
            self.conversations.finish(response.tenant, turn.appended, response.id)
        self._turns[response.tenant, response.id] = copy.deepcopy(turn)

    async def delete(self, tenant: TenantId, response_id: ResponseId) -> list[Checkpoint] | None:
        turn = self._live(tenant, response_id)
        if turn is None:
            return None
        key = (tenant, response_id)
        self._tombstones.add(key)
        self._seeds.pop(key, None)
        self._turns[key] = replace(self._turns[key], checkpoint=None)
        for ancestor in self._line(key):
            if ancestor not in self._tombstones or self._has_child(ancestor):
                break
            self._tombstones.remove(ancestor)
            del self._turns[ancestor]
        return [turn.checkpoint] if turn.checkpoint else []

    def give(self, tenant: TenantId, response_id: ResponseId, checkpoint: Checkpoint) -> None:
        """To a response for the one that it has, unless it is deleted. See ContextStore.keep."""
        if self._live(tenant, response_id) is not None:
            key = (tenant, response_id)
            self._turns[key] = replace(self._turns[key], checkpoint=checkpoint)

    async def save_seed(self, tenant: TenantId, response_id: ResponseId, seed: bytes) -> None:
        turn = self._turns.get((tenant, response_id))
        if turn is not None and turn.checkpoint is not None:
            self._seeds[tenant, response_id] = seed

    async def seeds(self, tenant: TenantId, response_id: ResponseId) -> list[bytes]:
        if (tenant, response_id) not in self._turns:
            return []
        line = [*self._line((tenant, response_id))]
        return [self._seeds[key] for key in reversed(line) if key in self._seeds]

    async def items(self, tenant: TenantId, item_ids: Collection[str]) -> dict[str, Item]:
        found: dict[str, Item] = {}
        for turn in self._by_age(tenant):
            for item in (*turn.input_items, *turn.output_items):
                item_id = item_key(item)
                if item_id is not None and item_id in item_ids:
                    found[item_id] = item
        return copy.deepcopy(found)

    async def input_items(self, tenant: TenantId, response_id: ResponseId, paging: Paging) -> ItemPage | None:
        if self._live(tenant, response_id) is None:
            return None
        *before, last = reversed([self._turns[key] for key in self._line((tenant, response_id))])
        items = [item for turn in before for item in (*turn.input_items, *turn.output_items)]
        keyed = [(item_key(item), item) for item in (*items, *last.input_items)]
        last_place = {item_id: place for place, (item_id, _) in enumerate(keyed)}
        listed = [
            (item_id, item)
            for place, (item_id, item) in enumerate(keyed)
            if item_id is None or last_place[item_id] == place
        ]
        rows, more = page_of(from_on(listed, paging), paging)
        return ItemPage(tuple(copy.deepcopy(item) for _, item in rows), more)

    async def responses(self, tenant: TenantId, paging: Paging) -> ResponsePage:
        listed = [(turn.response.id, turn) for turn in self._by_age(tenant)]
        rows, more = page_of(from_on(listed, paging), paging)
        return ResponsePage(
            tuple(copy.deepcopy((turn.response, turn.output_items)) for _, turn in rows), more
        )

    async def key(self, name: str) -> bytes:
        return self._keys.setdefault(name, secrets.token_bytes(32))

    async def ping(self) -> None:
        """Always there."""

    def _live(self, tenant: TenantId, response_id: ResponseId) -> Turn | None:
        key = (tenant, response_id)
        return None if key in self._tombstones else copy.deepcopy(self._turns.get(key))

    def _by_age(self, tenant: TenantId) -> list[Turn]:
        """Live turns, oldest first."""
        turns = [
            turn for key, turn in self._turns.items() if key[0] == tenant and key not in self._tombstones
        ]
        return sorted(turns, key=lambda turn: (turn.response.created_at, turn.response.id))

    def _line(self, key: Key) -> Iterator[Key]:
        """From a response back to its root."""
        previous: ResponseId | None = key[1]
        while previous is not None:
            here = (key[0], previous)
            # Read first: the caller may remove the turn before it asks for the next.
            previous = self._turns[here].response.previous_response_id
            yield here

    def _has_child(self, key: Key) -> bool:
        tenant, response_id = key
        return any(
            owner == tenant and turn.response.previous_response_id == response_id
            for (owner, _), turn in self._turns.items()
        )


def _gone(response_id: ResponseId) -> PreviousResponseNotFound:
    message = f"Previous response with id {response_id!r} not found."
    return PreviousResponseNotFound(message, param="previous_response_id")
