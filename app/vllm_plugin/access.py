"""Who may call the prefix routes, and how a call is refused. Imports nothing of vLLM's."""

import hmac
from collections.abc import Awaitable, Callable

from fastapi import Request
from fastapi.responses import JSONResponse, Response

from app.prefix.wire import SECRET_HEADER


class Refused(Exception):
    """An answer other than 200 that a route gives on purpose."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def secret_required(secret: str) -> Callable[[Request], Awaitable[None]]:
    """A dependency of routes: raises Refused where the request does not hold the shared secret."""

    async def authenticated(request: Request) -> None:
        given = request.headers.get(SECRET_HEADER, "")
        if not hmac.compare_digest(given.encode(), secret.encode()):
            raise Refused(401, "wrong_secret", f"the header {SECRET_HEADER} does not hold the shared secret")

    return authenticated


async def on_refused(_: Request, exc: Exception) -> Response:
    """Exception handler for Refused and PrefixMiss."""
    status, code = (exc.status, exc.code) if isinstance(exc, Refused) else (409, getattr(exc, "code", ""))
    return JSONResponse({"error": {"message": str(exc), "type": "prefix", "code": code}}, status)
