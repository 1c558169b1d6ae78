"""The calls of one turn that are made here, on MCP servers."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from app.conversation.hosted import ToolServers
from app.conversation.output import Event
from app.conversation.records import Item, Parent


class HostedTurn:
    goes_on: bool = False
    tools: tuple[dict[str, Any], ...] = ()

    def __init__(
        self, request: Any, servers: ToolServers, parent: Parent | None, given: Sequence[Item]
    ) -> None: ...

    async def opening(self, assembler: Any) -> AsyncIterator[list[Event]]:
        yield []

    async def run(self, assembler: Any) -> AsyncIterator[list[Event]]:
        yield []
