"""The routes of conversations."""

from typing import Any, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel, ValidationError

from app.api import answers, body
from app.api.conversation_body import CreateConversation, CreateItems, UpdateConversation
from app.api.items import as_item
from app.api.openapi import described
from app.api.query import Including, ListingItems, Query
from app.api.query import parse as parse_query
from app.api.refusals import refusal
from app.api.routes import Given
from app.conversation.records import DEFAULT_TENANT, ConversationId

router = APIRouter(prefix="/v1/conversations")


@router.post("", openapi_extra=described(answers.Conversation, 400, 404, 413, 503, body=CreateConversation))
async def create_conversation(request: Request, services: Given) -> dict[str, Any]:
    asked = _parse(CreateConversation, await body.read(request))
    items = [as_item(item) for item in asked.items or ()]
    return await services.conversations.create(DEFAULT_TENANT, items, asked.metadata or {})


@router.get("/{conversation_id}", openapi_extra=described(answers.Conversation, 400, 404, 503))
async def retrieve_conversation(
    conversation_id: ConversationId, request: Request, services: Given
) -> dict[str, Any]:
    parse_query(request.query_params, Query)
    return await services.conversations.get(DEFAULT_TENANT, conversation_id)


@router.post(
    "/{conversation_id}",
    openapi_extra=described(answers.Conversation, 400, 404, 413, 503, body=UpdateConversation),
)
async def update_conversation(
    conversation_id: ConversationId, request: Request, services: Given
) -> dict[str, Any]:
    asked = _parse(UpdateConversation, await body.read(request))
    return await services.conversations.update(DEFAULT_TENANT, conversation_id, asked.metadata or {})


@router.delete("/{conversation_id}", openapi_extra=described(answers.DeletedConversation, 400, 404, 409, 503))
async def delete_conversation(
    conversation_id: ConversationId, request: Request, services: Given
) -> dict[str, Any]:
    """Waits for a turn that is running, or is refused."""
    parse_query(request.query_params, Query)
    await services.conversations.delete(DEFAULT_TENANT, conversation_id)
    return {"id": conversation_id, "object": "conversation.deleted", "deleted": True}


@router.post(
    "/{conversation_id}/items",
    openapi_extra=described(answers.ItemList, 400, 404, 409, 413, 503, body=CreateItems, query=Including),
)
async def create_items(conversation_id: ConversationId, request: Request, services: Given) -> dict[str, Any]:
    """Waits for a turn that is running, or is refused."""
    query = parse_query(request.query_params, Including)
    items = [as_item(item) for item in _parse(CreateItems, await body.read(request)).items]
    return await services.conversations.add(DEFAULT_TENANT, conversation_id, items, seal=query.seal)


@router.get(
    "/{conversation_id}/items",
    openapi_extra=described(answers.ItemList, 400, 404, 503, query=ListingItems),
)
async def list_items(conversation_id: ConversationId, request: Request, services: Given) -> dict[str, Any]:
    query = parse_query(request.query_params, ListingItems)
    return await services.conversations.items(
        DEFAULT_TENANT, conversation_id, query.paging(), seal=query.seal
    )


# A client's own id may have a slash in it.
@router.get(
    "/{conversation_id}/items/{item_id:path}",
    openapi_extra=described(answers.Item, 400, 404, 503, query=Including),
)
async def retrieve_item(
    conversation_id: ConversationId, item_id: str, request: Request, services: Given
) -> dict[str, Any]:
    query = parse_query(request.query_params, Including)
    return await services.conversations.item(DEFAULT_TENANT, conversation_id, item_id, seal=query.seal)


@router.delete(
    "/{conversation_id}/items/{item_id:path}",
    openapi_extra=described(answers.Conversation, 400, 404, 409, 503),
)
async def delete_item(
    conversation_id: ConversationId, item_id: str, request: Request, services: Given
) -> dict[str, Any]:
    """Waits for a turn that is running, or is refused."""
    parse_query(request.query_params, Query)
    return await services.conversations.delete_item(DEFAULT_TENANT, conversation_id, item_id)


Body = TypeVar("Body", bound=BaseModel)


def _parse(model: type[Body], content: bytes) -> Body:
    """Raises InvalidRequest with the field at fault."""
    try:
        return model.model_validate_json(content)
    except ValidationError as exc:
        raise refusal(exc.errors(include_url=False)[0], known=()) from None
