"""The calls of one turn that are made here, on MCP servers."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import TYPE_CHECKING, Any

from app.conversation import output
from app.conversation.approvals import CALL, REQUEST, approved
from app.conversation.compaction import KIND as COMPACTION
from app.conversation.engine import ToolCallDelta
from app.conversation.hosted import McpServer, ServerTool, ToolServerError, ToolSessions
from app.conversation.hosted_tools import HostedTool, choice_of_functions, named, once_called
from app.conversation.inputs import CALLS
from app.conversation.options import Options
from app.conversation.output import ApprovalWriter, CallWriter, Event, McpCallWriter, arguments_of
from app.conversation.plan import TurnRequest
from app.conversation.records import Item, Parent

if TYPE_CHECKING:
    from app.conversation.events import EventAssembler

MOST_CALLS = 128
"""Of one turn, where `max_tool_calls` does not say less."""
_MOST_TOOLS = 1024
_INVALID_PARAMS = -32602
_AT_ONCE = 8


class HostedTurn:
    """Lists the tools of the turn's servers, knows which of the model's calls are theirs, and runs those.

    goes_on: whether the model has to be asked again, once a round's calls were run.
    """

    def __init__(
        self, request: TurnRequest, sessions: ToolSessions, parent: Parent | None, given: Sequence[Item]
    ) -> None:
        """given: all items that are new since the parent."""
        self.goes_on = False
        self._request = request
        self._servers = {server.label: server for server in request.mcp}
        self._sessions = sessions
        self._approved = approved(parent.output_items if parent else (), given)
        self._announced = _announced(parent, given)
        self._tools: tuple[HostedTool, ...] = ()
        self._forced = True
        self._left = min(request.max_calls or MOST_CALLS, MOST_CALLS)
        self._limit_told = False
        self._seen = 0
        self._at_once = asyncio.Semaphore(_AT_ONCE)

    def options(self, options: Options) -> Options:
        """What the model is asked with: the servers' tools as functions."""
        own = tuple(tool for tool in self._request.options.tools if tool["type"] != "mcp")
        choice = choice_of_functions(self._request.options.tool_choice, self._tools)
        return options.offering(
            (*own, *(hosted.as_function() for hosted in self._tools)),
            choice if self._forced else once_called(choice),
        )

    def writer(self, call: ToolCallDelta) -> CallWriter | None:
        """For a call of a tool that is run here; None for the client's own."""
        hosted = next((h for h in self._tools if h.shown == call.name), None)
        if hosted is None:
            return None
        writes = ApprovalWriter if hosted.server.needs_approval(hosted.tool) else McpCallWriter
        return writes(call.index, hosted.server.label, hosted.tool.name)

    async def list_tools(self) -> dict[str, ToolServerError]:
        """Ask every server what it has; returns what is wrong with those that cannot be used, by label."""
        found = await asyncio.gather(*(self._listed(server) for server in self._servers.values()))
        failed: dict[str, ToolServerError] = {}
        listed: list[tuple[McpServer, ServerTool]] = []
        for server, tools in zip(self._servers.values(), found, strict=True):
            if isinstance(tools, ToolServerError):
                failed[server.label] = tools
            elif len(listed) + len(tools) > _MOST_TOOLS:
                failed[server.label] = ToolServerError(f"There are more than {_MOST_TOOLS} tools.")
            else:
                listed += [(server, tool) for tool in tools]
        own = (tool["name"] for tool in self._request.options.tools if tool["type"] != "mcp")
        self._tools = named(own, listed)
        return failed

    async def opening(self, assembler: "EventAssembler") -> AsyncGenerator[list[Event]]:
        """What comes before the model is asked: the tools are listed, and what was approved is run."""
        items = {label: output.mcp_list_tools(label) for label in self._servers}
        new = {label: item for label, item in items.items() if label not in self._announced}
        if new:
            yield [event for item in new.values() for event in assembler.place(item)]
        failed = await self.list_tools()
        events: list[Event] = []
        for label, item in items.items():
            if label in failed and label not in new:
                events += assembler.place(item)
            elif label not in new:
                continue
            item["error"] = failed[label].message if label in failed else None
            item["tools"] = [_shown(h.tool) for h in self._tools if h.server.label == label]
            events += assembler.finish(item)
        for request in self._approved:
            writer = McpCallWriter(0, request["server_label"], request["name"], approved=request["id"])
            events += assembler.call(writer, request["arguments"])
        if events:
            yield events
        async with contextlib.aclosing(self._run_all(assembler)) as running:
            async for events in running:
                yield events
        self._seen = len(assembler.output)

    async def run(self, assembler: "EventAssembler") -> AsyncGenerator[list[Event]]:
        """Run the calls of the round that was written. What is not made here is left to the client."""
        new = assembler.output[self._seen :]
        called, left, was_told = bool(assembler.to_run), self._left, self._limit_told
        async with contextlib.aclosing(self._run_all(assembler)) as running:
            async for events in running:
                yield events
        for_client = any(item["type"] in CALLS or item["type"] == REQUEST for item in new)
        # Once it was told that no call is left, the model can still answer.
        self.goes_on = called and not for_client and (self._left < left or not was_told)
        self._forced = self._forced and not called
        self._seen = len(assembler.output)

    async def _run_all(self, assembler: "EventAssembler") -> AsyncGenerator[list[Event]]:
        """What is written and not run: several at once, told of in their order."""
        calls = [*assembler.to_run]
        allowed = calls[: self._left]
        self._left -= len(allowed)
        tasks = [asyncio.create_task(self._run(call)) for call in allowed]
        try:
            for call, task in zip(allowed, tasks, strict=True):
                await task
                yield assembler.finish(call)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for call in calls[len(allowed) :]:
            _fail(call, ToolServerError("It was not run: the limit of tool calls of this turn is reached."))
            yield assembler.finish(call)
        self._limit_told = self._limit_told or len(allowed) < len(calls)

    async def _listed(self, server: McpServer) -> tuple[ServerTool, ...] | ToolServerError:
        try:
            tools = await self._sessions.tools(server)
        except ToolServerError as exc:
            return exc
        return tuple(tool for tool in tools if server.offers(tool))

    async def _run(self, call: Item) -> None:
        """Fills in what comes of it. Never raises."""
        try:
            hosted = self._found(call)
            arguments = arguments_of(call["arguments"] or "{}")
            if arguments is None:
                raise ToolServerError("The arguments are no JSON object.", code=_INVALID_PARAMS)
            async with self._at_once:
                call["output"] = await self._sessions.call(hosted.server, hosted.tool.name, arguments)
            call["status"] = "completed"
        except ToolServerError as exc:
            _fail(call, exc)

    def _found(self, call: Item) -> HostedTool:
        label, name = call["server_label"], call["name"]
        for hosted in self._tools:
            if (hosted.server.label, hosted.tool.name) == (label, name):
                return hosted
        raise ToolServerError(f"The MCP server '{label}' offers no tool '{name}'.", code=_INVALID_PARAMS)


def settled(items: Sequence[Item]) -> int:
    """How many of a turn's output items are in the prompt that asks for what follows: those up to the last
    call that was run, or compaction. What the model said after it comes with the next margin."""
    places = (place for place, item in enumerate(items) if item["type"] == COMPACTION or _was_run(item))
    return max(places, default=-1) + 1


def _was_run(item: Item) -> bool:
    return item["type"] == CALL and item["status"] in ("completed", "failed")


def _announced(parent: Parent | None, given: Sequence[Item]) -> frozenset[str]:
    """Labels of the servers whose tools the client was told of before."""
    told = {
        item["server_label"] for item in given if item["type"] == "mcp_list_tools" and not item.get("error")
    }
    if parent is not None:
        failed = {item["server_label"] for item in parent.output_items if _is_failed_list(item)}
        servers = (tool for tool in parent.response.body["tools"] if tool["type"] == "mcp")
        told |= {server["server_label"] for server in servers} - failed
    return frozenset(told)


def _is_failed_list(item: Item) -> bool:
    return item["type"] == "mcp_list_tools" and bool(item["error"])


def _fail(call: Item, error: ToolServerError) -> None:
    call["status"], call["error"] = "failed", error.as_json()


def _shown(tool: ServerTool) -> dict[str, Any]:
    return {
        "name": tool.name,
        "description": tool.description,
        "input_schema": tool.input_schema,
        "annotations": tool.annotations,
    }
