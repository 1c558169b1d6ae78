"""A request's body, no longer than one may be."""

from fastapi import Request

from app.errors import RequestTooLarge

MAX_BODY_BYTES = 64 << 20
"""The text of the longest contexts is some megabytes; the rest is room for images in it."""


async def read(request: Request) -> bytes:
    """Raises RequestTooLarge, with no more of it read than that."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BODY_BYTES:
            raise RequestTooLarge(f"The request's body is longer than {MAX_BODY_BYTES >> 20} MiB.")
    return bytes(body)
