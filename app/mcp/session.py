"""One session with one MCP server, by the official SDK."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import httpx2
from mcp.client.client import Client
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from app.conversation.hosted import McpServer, ServerTool, ToolServerError
from app.mcp.http import TooLarge, Wire
from app.mcp.results import limited, text_of, tool_of

T = TypeVar("T")

MAX_TOOLS = 512
_MAX_PAGES = 64
_MAX_LIST_BYTES = 1024 * 1024
_CLOSING_S = 2.0
_OLD_TRANSPORT = frozenset({400, 404, 405})
"""What a server that knows SSE alone answers to streamable HTTP, as the MCP specification has it."""
_TIMED_OUT = -32001
_CONNECTION_CLOSED = -32000
_INTERNAL_ERROR = -32603
_CLOSED = "Connection closed"
"""The SDK's words where a session broke off under a request."""


class Session:
    """Lives in a task of its own, which alone opens and closes it: whoever asks may be cancelled at any time.

    listing_s, call_s: seconds that connecting and listing may take, each, and a call.
    """

    def __init__(self, server: McpServer, listing_s: float, call_s: float) -> None:
        self._server = server
        self._listing_s = listing_s
        self._call_s = call_s
        self._wire = Wire()
        self._client: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self._failure: ToolServerError | None = None
        self._closing = asyncio.Event()
        self._task = asyncio.create_task(self._live())

    async def tools(self) -> tuple[ServerTool, ...]:
        """All pages of them. Raises ToolServerError."""
        return await self._within(self._listing_s, "list its tools", self._list)

    async def call(self, name: str, arguments: dict[str, Any]) -> str:
        """Raises ToolServerError."""

        async def call(client: Client) -> str:
            return text_of(await client.call_tool(name, arguments, read_timeout_seconds=self._call_s))

        return await self._within(self._call_s, "answer the call", call)

    @property
    def is_over(self) -> bool:
        return self._task.done()

    def close(self) -> asyncio.Task[None]:
        """Ends it in the background: what is waited for has ended, but for the farewell."""
        self._closing.set()
        if not self._client.done():
            self._task.cancel()
        return self._task

    async def _live(self) -> None:
        try:
            async with asyncio.timeout(None) as patience, AsyncExitStack() as stack:
                client = await self._connected(stack)
                if not self._client.done():
                    self._client.set_result(client)
                await self._closing.wait()
                patience.reschedule(asyncio.get_running_loop().time() + _CLOSING_S)
        except Exception as exc:
            self._failure = self._told(exc)
        finally:
            self._client.cancel()

    async def _connected(self, stack: AsyncExitStack) -> Client:
        """By streamable HTTP; by SSE, where the server does not know that."""
        async with AsyncExitStack() as trying:
            transport = streamable_http_client(
                self._server.url, http_client=await trying.enter_async_context(self._http())
            )
            try:
                client = await trying.enter_async_context(Client(transport, cache=None))
            except Exception as exc:
                told = self._told(exc)
                if told.kind != "http_error" or told.code not in _OLD_TRANSPORT:
                    raise
            else:
                await stack.enter_async_context(trying.pop_all())
                return client
        old = sse_client(
            self._server.url, httpx_client_factory=self._http, sse_read_timeout=self._call_s + self._listing_s
        )
        return await stack.enter_async_context(Client(old, cache=None, mode="legacy"))

    def _http(
        self,
        headers: dict[str, str] | None = None,
        timeout: httpx2.Timeout | None = None,
        auth: httpx2.Auth | None = None,
    ) -> httpx2.AsyncClient:
        """The SDK's factory of clients; what it says is left out: headers are the request's."""
        self._wire = Wire()
        return httpx2.AsyncClient(
            headers=self._server.headers,
            timeout=httpx2.Timeout(self._listing_s, read=timeout.read if timeout else self._call_s),
            transport=self._wire,
            auth=auth,
        )

    async def _list(self, client: Client) -> tuple[ServerTool, ...]:
        found: dict[str, ServerTool] = {}
        cursor, size = None, 0
        for _ in range(_MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            if len(found) + len(page.tools) > MAX_TOOLS:
                raise ToolServerError(f"It has more than {MAX_TOOLS} tools.")
            for tool in page.tools:
                found[tool.name], more = tool_of(tool)
                size += more
                if size > _MAX_LIST_BYTES:
                    raise ToolServerError("It says more than 1 MiB of its tools.")
            cursor = page.next_cursor
            if cursor is None:
                return tuple(found.values())
        raise ToolServerError(f"Its list of tools does not end after {_MAX_PAGES} pages.")

    async def _within(self, seconds: float, what: str, ask: Callable[[Client], Awaitable[T]]) -> T:
        """Raises ToolServerError, for whatever goes wrong."""
        asking = asyncio.create_task(self._asked(seconds, what, ask))
        try:
            await asyncio.wait({asking, self._task}, return_when=asyncio.FIRST_COMPLETED)
            if not self._task.done():
                return await asking
            if asking.done() and not asking.cancelled() and asking.exception() is None:
                return asking.result()
            raise self._failure or ToolServerError(
                "The connection to the server broke off.", code=_CONNECTION_CLOSED
            )
        except ToolServerError:
            raise
        except Exception as exc:
            if isinstance(exc, MCPError) and exc.error.message == _CLOSED:
                # The session is ending, and knows why once it has ended.
                await asyncio.wait({self._task}, timeout=_CLOSING_S)
            raise self._failure or self._told(exc) from exc
        finally:
            asking.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await asking

    async def _asked(self, seconds: float, what: str, ask: Callable[[Client], Awaitable[T]]) -> T:
        try:
            async with asyncio.timeout(self._listing_s):
                client = await asyncio.shield(self._client)
        except TimeoutError:
            message = f"The server could not be connected to within {self._listing_s:g} s."
            raise ToolServerError(message, code=_TIMED_OUT) from None
        try:
            async with asyncio.timeout(seconds):
                return await ask(client)
        except TimeoutError:
            message = f"The server did not {what} within {seconds:g} s."
            raise ToolServerError(message, code=_TIMED_OUT) from None

    def _told(self, exc: BaseException) -> ToolServerError:
        """What went wrong, in the words of who knows."""
        while isinstance(exc, BaseExceptionGroup):
            exc = exc.exceptions[0]
        match exc:
            case ToolServerError():
                return exc
            case MCPError() if self._wire.refused is not None and self._wire.refused >= 300:
                status = self._wire.refused
                return ToolServerError(
                    f"The server answered with HTTP status {status}.", "http_error", status
                )
            case MCPError():
                return ToolServerError(limited(exc.error.message), code=_code(exc.error.code))
            case httpx2.HTTPStatusError():
                status = exc.response.status_code
                return ToolServerError(
                    f"The server answered with HTTP status {status}.", "http_error", status
                )
            case httpx2.HTTPError():
                return ToolServerError(
                    f"The server cannot be reached ({type(exc).__name__}).", code=_CONNECTION_CLOSED
                )
            case TooLarge():
                return ToolServerError("The server sent more than is read of one.")
        return ToolServerError(f"What the server answered is no MCP ({type(exc).__name__}).")


def _code(code: int) -> int:
    """JSON-RPC's, as far as it is a number that everybody can read."""
    return code if -(2**31) <= code < 2**31 else _INTERNAL_ERROR
