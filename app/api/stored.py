"""The routes of stored responses."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from app.api import answers
from app.api.openapi import described
from app.api.query import Listing, ListingItems, Query, Retrieving, parse
from app.api.routes import Given
from app.api.streaming import LogStream
from app.conversation.records import DEFAULT_TENANT, ResponseId
from app.errors import InvalidRequest, UnsupportedParameter

router = APIRouter(prefix="/v1/responses")


@router.get("", openapi_extra=described(answers.ResponseList, 400, 503, query=Listing))
async def list_responses(request: Request, services: Given) -> dict[str, Any]:
    query = parse(request.query_params, Listing)
    return await services.responses.page(DEFAULT_TENANT, query.paging())


@router.get(
    "/{response_id}",
    openapi_extra=described(answers.Response, 400, 404, 503, query=Retrieving, streamed=True),
)
async def retrieve_response(response_id: ResponseId, request: Request, services: Given) -> Response:
    query = parse(request.query_params, Retrieving)
    if query.stream:
        _refuse_changes(query)
        events = services.background.follow(DEFAULT_TENANT, response_id, query.starting_after)
        return LogStream(await events)
    _refuse_streaming(query)
    return JSONResponse(await services.responses.get(DEFAULT_TENANT, response_id, seal=query.seal))


@router.delete("/{response_id}", openapi_extra=described(answers.Deleted, 400, 404, 503))
async def delete_response(response_id: ResponseId, request: Request, services: Given) -> dict[str, Any]:
    parse(request.query_params, Query)
    await services.responses.delete(DEFAULT_TENANT, response_id)
    return {"id": response_id, "object": "response", "deleted": True}


@router.get(
    "/{response_id}/input_items", openapi_extra=described(answers.ItemList, 400, 404, 503, query=ListingItems)
)
async def list_input_items(response_id: ResponseId, request: Request, services: Given) -> dict[str, Any]:
    query = parse(request.query_params, ListingItems)
    return await services.responses.input_items(DEFAULT_TENANT, response_id, query.paging(), seal=query.seal)


@router.post("/{response_id}/cancel", openapi_extra=described(answers.Response, 400, 404, 503))
async def cancel_response(response_id: ResponseId, request: Request, services: Given) -> dict[str, Any]:
    """Only one that is made in background can be cancelled; one that has ended stays as it is."""
    parse(request.query_params, Query)
    return await services.background.cancel(DEFAULT_TENANT, response_id)


def _refuse_changes(query: Retrieving) -> None:
    """A stream is what was logged."""
    if query.include_obfuscation:
        raise UnsupportedParameter("Stream events are not obfuscated.", param="include_obfuscation")
    if query.seal:
        raise InvalidRequest("What a stream includes is said when the response is created.", param="include")


def _refuse_streaming(query: Retrieving) -> None:
    for name in ("starting_after", "include_obfuscation"):
        if getattr(query, name) is not None:
            raise InvalidRequest(f"'{name}' is only for a response that is streamed.", param=name)
