"""Stored responses: retrieve, list, delete."""

from typing import Any

from app.conversation.engine import Engine
from app.conversation.records import Item, Paging, ResponseId, ResponseStore, StoredResponse, TenantId
from app.conversation.sealing import Sealing
from app.errors import InvalidRequest, NotFound

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
        return _whole(stored, await self._sealed(tenant, output) if seal else output)

    async def page(self, tenant: TenantId, paging: Paging) -> Json:
        """A list of the tenant's Response objects. Raises InvalidRequest for an unknown `after`."""
        page = await self._store.responses(tenant, paging)
        return _list([_whole(stored, output) for stored, output in page.responses], page.more)

    async def input_items(
        self, tenant: TenantId, response_id: ResponseId, paging: Paging, *, seal: bool = False
    ) -> Json:
        """A list of all that was input to a response: the turns before it and its own new items.

        Raises NotFound, InvalidRequest for an unknown `after`.
        """
        page = await self._store.input_items(tenant, response_id, paging)
        if page is None:
            raise _not_found(response_id)
        items = await self._sealed(tenant, page.items) if seal else page.items
        # A client may leave out the status of what it sends; what is listed has one.
        return _list([{"status": "completed", **item} for item in items], page.more)

    async def cancel(self, tenant: TenantId, response_id: ResponseId) -> None:
        """Raises NotFound, InvalidRequest for any other: it has ended before it was stored."""
        if await self._store.get(tenant, response_id) is None:
            raise _not_found(response_id)
        raise InvalidRequest("Cannot cancel a synchronous response.", param="response_id")

    async def delete(self, tenant: TenantId, response_id: ResponseId) -> None:
        """Delete a response, and what the workers hold of it. Raises NotFound."""
        checkpoints = await self._store.delete(tenant, response_id)
        if checkpoints is None:
            raise _not_found(response_id)
        await self._engine.forget(checkpoints)

    async def _sealed(self, tenant: TenantId, items: tuple[Item, ...]) -> tuple[Item, ...]:
        if all(item["type"] != "reasoning" for item in items):
            return items
        sealer = await self._sealing.sealer()
        return tuple(sealer.sealed(tenant, item) for item in items)


def _whole(stored: StoredResponse, output: tuple[Item, ...]) -> Json:
    return {**stored.body, "output": list(output)}


def _list(data: list[Json], more: bool) -> Json:
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}


def _not_found(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id}' not found.", param="response_id")
