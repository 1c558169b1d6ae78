"""Stored responses: retrieve and delete."""

from typing import Any

from app.conversation.engine import Engine
from app.conversation.records import ResponseId, ResponseStore, TenantId
from app.errors import NotFound


class Responses:
    """What a tenant keeps."""

    def __init__(self, store: ResponseStore, engine: Engine) -> None:
        self._store = store
        self._engine = engine

    async def get(self, tenant: TenantId, response_id: ResponseId) -> dict[str, Any]:
        """The Response object as it was completed. Raises NotFound."""
        found = await self._store.get(tenant, response_id)
        if found is None:
            raise _not_found(response_id)
        stored, output = found
        return {**stored.body, "output": list(output)}

    async def delete(self, tenant: TenantId, response_id: ResponseId) -> None:
        """Delete a response, and what the workers hold of it. Raises NotFound."""
        checkpoints = await self._store.delete(tenant, response_id)
        if checkpoints is None:
            raise _not_found(response_id)
        await self._engine.forget(checkpoints)


def _not_found(response_id: str) -> NotFound:
    return NotFound(f"Response with id '{response_id}' not found.", param="response_id")
