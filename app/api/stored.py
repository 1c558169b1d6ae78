"""The routes of stored responses."""

from typing import Any

from fastapi import APIRouter, Request

from app.api import answers
from app.api.openapi import described
from app.api.query import Listing, ListingItems, Query, Retrieving, parse
from app.api.routes import Given
from app.conversation.records import DEFAULT_TENANT, ResponseId
from app.errors import InvalidRequest

router = APIRouter(prefix="/v1/responses")


@router.get("", openapi_extra=described(answers.ResponseList, 400, 503, query=Listing))
async def list_responses(request: Request, services: Given) -> dict[str, Any]:
    query = parse(request.query_params, Listing)
    return await services.responses.page(DEFAULT_TENANT, query.paging())


@router.get("/{response_id}", openapi_extra=described(answers.Response, 400, 404, 503, query=Retrieving))
async def retrieve_response(response_id: ResponseId, request: Request, services: Given) -> dict[str, Any]:
    query = parse(request.query_params, Retrieving)
    _refuse_streaming(query)
    return await services.responses.get(DEFAULT_TENANT, response_id, seal=query.seal)


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


@router.post("/{response_id}/cancel", openapi_extra=described(None, 400, 404, 503))
async def cancel_response(response_id: ResponseId, request: Request, services: Given) -> None:
    """Always refused: only a response that is made in background can be cancelled."""
    parse(request.query_params, Query)
    await services.responses.cancel(DEFAULT_TENANT, response_id)


def _refuse_streaming(query: Retrieving) -> None:
    """There is nothing to stream: a response is stored once it has ended."""
    if query.stream:
        raise InvalidRequest("Only a response in background can be streamed.", param="stream")
    for name in ("starting_after", "include_obfuscation"):
        if getattr(query, name) is not None:
            raise InvalidRequest(f"'{name}' is only for a response that is streamed.", param=name)
