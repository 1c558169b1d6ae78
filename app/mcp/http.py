"""The HTTP client of MCP sessions: it reads no more than it should."""

from collections.abc import AsyncIterator

import httpx2

_MAX_BYTES = 8 * 1024 * 1024
"""Of one HTTP response, or of one connection by SSE."""


class TooLarge(Exception):
    """A server sent more than is read of it."""


class Wire(httpx2.AsyncBaseTransport):
    """Counts what comes. refused: the status of the last request that was answered with an error."""

    def __init__(self) -> None:
        self.refused: int | None = None
        self._inner = httpx2.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        # What is not compressed is as long as it says.
        request.headers["accept-encoding"] = "identity"
        response = await self._inner.handle_async_request(request)
        if request.method == "POST":
            self.refused = response.status_code if response.status_code >= 300 else None
        if response.headers.get("content-encoding", "identity") != "identity":
            await response.aclose()
            raise TooLarge("compressed")
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        return httpx2.Response(
            response.status_code,
            headers=response.headers,
            stream=_Counted(response.stream),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Counted(httpx2.AsyncByteStream):
    def __init__(self, stream: httpx2.AsyncByteStream) -> None:
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read = 0
        async for part in self._stream:
            read += len(part)
            if read > _MAX_BYTES:
                raise TooLarge("long")
            yield part

    async def aclose(self) -> None:
        await self._stream.aclose()
