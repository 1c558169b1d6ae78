"""What is kept of contexts, and the port to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NewType, Protocol

from app.conversation.records import Checkpoint, Paging, ResponseId, TenantId

ContextId = NewType("ContextId", str)


@dataclass(frozen=True, slots=True)
class Context:
    """A prefix that was made ready, for conversations to start from.

    response_id: of the response that they continue. ttl_s: seconds from its creation, or its last renewal, to
    `expires_at`. prompt: the fields that make its prompt, less its items, as its creation gave them.
    """

    id: ContextId
    tenant: TenantId
    name: str | None
    response_id: ResponseId
    created_at: datetime
    expires_at: datetime
    ttl_s: int
    prompt: dict[str, Any]


@dataclass(frozen=True, slots=True)
class HeldContext:
    """A context with what is known of its response.

    body: that response's, less `output`. kept_until: when the worker lets go of its prefix; None where none
    keeps it.
    """

    context: Context
    body: dict[str, Any]
    kept_until: datetime | None


@dataclass(frozen=True, slots=True)
class ContextPage:
    """A part of a list of contexts. more: whether the list goes on after it."""

    contexts: tuple[HeldContext, ...]
    more: bool


class ContextStore(Protocol):
    """Port to the database. Each call is one statement, and raises StoreUnavailable as ResponseStore's do.

    A context is there as long as it has not expired by `now` and its response is not deleted.
    """

    async def add(self, context: Context) -> None:
        """Raises NotFound where its response is gone."""

    async def get(self, tenant: TenantId, context_id: ContextId, now: datetime) -> HeldContext | None:
        """None where it is not there, or another tenant's."""

    async def page(self, tenant: TenantId, paging: Paging, name: str | None, now: datetime) -> ContextPage:
        """Of the tenant's contexts, or of those with that name. Raises InvalidRequest where none of them has
        the id `after`."""

    async def renew(self, tenant: TenantId, context_id: ContextId, expires_at: datetime, ttl_s: int) -> None:
        """Let it live until then, unless it lives longer anyway."""

    async def remove(self, tenant: TenantId, context_id: ContextId) -> None:
        """Forget it. Its response stays."""

    async def useless(
        self, tenant: TenantId, now: datetime, limit: int
    ) -> Sequence[tuple[ContextId, ResponseId]]:
        """Some of those that are not there any more, at most `limit`, with their responses."""

    async def keep(self, tenant: TenantId, response_id: ResponseId, checkpoint: Checkpoint) -> None:
        """Give a response this checkpoint for the one that it has. Does nothing where it is deleted."""
