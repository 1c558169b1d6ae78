"""A request's body: JSON by its own account, and no longer than one may be."""

from fastapi import Request

from app.errors import RequestTooLarge, UnsupportedContentType

MAX_BODY_BYTES = 64 << 20
"""The text of the longest contexts is some megabytes; the rest is room for images in it."""


async def read(request: Request) -> bytes:
    """Raises UnsupportedContentType; RequestTooLarge, with no more of it read than that."""
    kind = request.headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "application/json":
        # Any other, or none, a web page may send to a server on its reader's machine without being asked.
        raise UnsupportedContentType(f"The content type must be application/json, not '{kind}'.")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise RequestTooLarge(f"The request's body is longer than {MAX_BODY_BYTES >> 20} MiB.")
    return bytes(body)
