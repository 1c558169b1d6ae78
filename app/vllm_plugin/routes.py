"""The prefix protocol's HTTP routes on vLLM's own server. Private: every call needs the shared secret."""

from typing import Any

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from vllm.entrypoints.serve.utils.api_utils import load_aware_call, with_cancellation

from app.prefix.wire import PROTOCOL, PrefixChatRequest
from app.vllm_plugin.access import Refused, secret_required
from app.vllm_plugin.references import PrefixMiss
from app.vllm_plugin.seam import ErrorResponse
from app.vllm_plugin.service import PrefixService


def build_router(secret: str) -> APIRouter:
    """Routes under /prefix/v1. The service is found at `app.state.marginalia` when a call comes."""
    router = APIRouter(prefix="/prefix/v1", dependencies=[Depends(secret_required(secret))])

    @router.get("/info")
    async def info(request: Request) -> Response:
        return _json(_service(request).info())

    @router.get("/stats")
    async def stats(request: Request) -> Response:
        return _json(_service(request).stats())

    @router.post("/chat")
    async def chat(request: Request) -> Response:
        answer: Response | None = await _chat(_parse(await request.body()), request)
        # None: the client hung up, nobody reads this.
        return answer or Response(status_code=499)

    @router.post("/render")
    async def render(request: Request, ids: bool = False) -> Response:
        answer = await _service(request).render(_parse(await request.body()), with_ids=ids)
        return _stock_error(answer) if isinstance(answer, ErrorResponse) else _json(answer)

    @router.delete("/{ref}")
    async def drop(request: Request, ref: str) -> Response:
        try:
            return _json({"deleted": _service(request).drop(ref)})
        except ValueError as exc:
            raise Refused(400, "invalid_ref", "a reference is 32 hex digits") from exc

    return router


@with_cancellation  # type: ignore[untyped-decorator]
@load_aware_call  # type: ignore[untyped-decorator]
async def _chat(body: PrefixChatRequest, raw_request: Request) -> Response:
    answer, headers = await _service(raw_request).chat(body, raw_request)
    if isinstance(answer, ErrorResponse):
        return _stock_error(answer)
    if isinstance(answer, dict):
        return JSONResponse(answer, headers=headers)
    return StreamingResponse(answer, headers=headers, media_type="text/event-stream")


HANDLED = (Refused, PrefixMiss)
"""Exceptions for access.on_refused."""


def _service(request: Request) -> PrefixService:
    service: PrefixService = request.app.state.marginalia
    return service


def _parse(body: bytes) -> PrefixChatRequest:
    try:
        request = msgspec.json.decode(body, type=PrefixChatRequest)
    except (msgspec.DecodeError, UnicodeError) as exc:
        raise Refused(400, "invalid_request", str(exc)) from exc
    if request.protocol != PROTOCOL:
        raise Refused(400, "protocol", f"this plugin speaks protocol {PROTOCOL}, not {request.protocol}")
    return request


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _stock_error(error: ErrorResponse) -> Response:
    return JSONResponse(error.model_dump(), error.error.code)
