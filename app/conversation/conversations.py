"""Conversations."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.conversation.records import Admission, Appended, ConversationId, TenantId


class Conversations:
    @asynccontextmanager
    async def admit(self, tenant: TenantId, conversation: ConversationId) -> AsyncIterator[Admission]:
        raise NotImplementedError
        yield

    async def look(self, tenant: TenantId, conversation: ConversationId) -> Admission:
        raise NotImplementedError

    async def append(self, tenant: TenantId, appended: Appended) -> None:
        raise NotImplementedError
