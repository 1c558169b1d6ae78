"""Stored responses: retrieve, list, delete."""

from typing import Any

from app.conversation.engine import Engine
from app.conversation.pages import page, shown
from app.conversation.records import Item, Paging, ResponseId, ResponseStore, StoredResponse, TenantId
from app.conversation.sealing import Sealing
from app.errors import NotFound

Json = dict[str, Any]


class Responses:
    """What a tenant keeps. With `seal`, reasoning items have their `encrypted_content` too."""

    def __init__(self, store: ResponseStore, engine: Engine, sealing: Sealing) -> None:
        self._store = store
        self._engine = engine
        self._sealing = sealing

    async def get(self, tenant: TenantId, response_id: ResponseId, *, seal: bool = False) -> Json:
        """The Response object as it was completed. Raises NotFound."""
        found = await self._store.get(tenant, response_id)
        if found is None:
            raise _not_found(response_id)
        stored, output = found
        return _whole(stored, await self._sealing.sealed(tenant, output) if seal else output)

    async def page(self, tenant: TenantId, paging: Paging) -> Json:
        """A list of the tenant's Response objects. Raises InvalidRequest for an unknown `after`."""
        found = await self._store.responses(tenant, paging)
        return page([_whole(stored, output) for stored, output in found.responses], more=found.more)

    async def input_items(
        self, tenant: TenantId, response_id: ResponseId, paging: Paging, *, seal: bool = False
    ) -> Json:
        """A list of all that was input to a response: the turns before it and its own new items.

        Raises NotFound, InvalidRequest for an unknown `after`.
        """
        found = await self._store.input_items(tenant, response_id, paging)
        if found is None:
            raise _not_found(response_id)
        items = await self._sealing.sealed(tenant, found.items) if seal else found.items
        return page(shown(items), more=found.more)

    async def delete(self, tenant: TenantId, response_id: ResponseId) -> None:
        """Delete a response, and what the workers hold of it. Raises NotFound."""
        checkpoints = await self._store.delete(tenant, response_id)
        if checkpoints is None:
            raise _not_found(response_id)
        await self._engine.forget(checkpoints)


def _whole(stored: StoredResponse, output: tuple[Item, ...]) -> Json:
    return {**stored.body, "output": list(output)}


def _not_found(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id}' not found.", param="response_id")
