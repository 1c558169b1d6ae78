"""The one place where errors become HTTP answers: OpenAI's envelope."""

import logging

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from app.errors import MarginaliaError

logger = logging.getLogger("marginalia")


def add_error_handlers(app: FastAPI) -> None:
    app.add_exception_handler(MarginaliaError, _on_marginalia_error)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(Exception, _on_bug)


def envelope(message: str, kind: str, code: str | None, param: str | None = None) -> dict[str, object]:
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def _on_marginalia_error(_: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, MarginaliaError)
    return JSONResponse(envelope(exc.message, exc.type, exc.code, exc.param), exc.status)


def _on_http_exception(request: Request, exc: Exception) -> JSONResponse:
    assert isinstance(exc, HTTPException)
    message = f"{exc.detail} ({request.method} {request.url.path})"
    body = envelope(message, "invalid_request_error", None)
    return JSONResponse(body, exc.status_code, headers=exc.headers)


def _on_bug(_: Request, exc: Exception) -> JSONResponse:
    logger.error("unexpected error", exc_info=exc)
    return JSONResponse(envelope("The server had an error.", "server_error", "internal_error"), 500)
