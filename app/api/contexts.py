"""The routes of contexts: prefixes that are made ready once, for conversations to start from."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from app.api import body
from app.api.context_body import Context, ContextDeleted, ContextList, CreateContext, ListingContexts
from app.api.openapi import described
from app.api.query import Query
from app.api.query import parse as parse_query
from app.api.requests import parse
from app.api.routes import Given
from app.api.sessions import SESSION_ID, SESSION_TTL, ttl_of
from app.conversation.context_store import ContextId
from app.conversation.records import DEFAULT_TENANT

router = APIRouter(prefix="/v1/contexts")


@router.post("", openapi_extra=described(Context, 400, 404, 413, 502, 503, body=CreateContext))
async def create_context(request: Request, response: Response, services: Given) -> dict[str, Any]:
    """Answers once the prefix is in the engine's cache."""
    asked = parse(CreateContext, await body.read(request))
    turn_request = asked.turn(ttl_of(request.headers) or services.prefix_ttl_seconds)
    context = await services.contexts.create(DEFAULT_TENANT, asked.name, asked.kept(), turn_request)
    response.headers.update({SESSION_ID: context["id"], SESSION_TTL: str(context["ttl"])})
    return context


@router.get("", openapi_extra=described(ContextList, 400, 503, query=ListingContexts))
async def list_contexts(request: Request, services: Given) -> dict[str, Any]:
    query = parse_query(request.query_params, ListingContexts)
    return await services.contexts.page(DEFAULT_TENANT, query.paging(), query.name)


@router.get("/{context_id}", openapi_extra=described(Context, 400, 404, 503))
async def retrieve_context(context_id: ContextId, request: Request, services: Given) -> dict[str, Any]:
    parse_query(request.query_params, Query)
    return await services.contexts.get(DEFAULT_TENANT, context_id)


@router.delete("/{context_id}", openapi_extra=described(ContextDeleted, 400, 404, 503))
async def delete_context(context_id: ContextId, request: Request, services: Given) -> dict[str, Any]:
    parse_query(request.query_params, Query)
    await services.contexts.delete(DEFAULT_TENANT, context_id)
    return {"id": context_id, "object": "context", "deleted": True}
