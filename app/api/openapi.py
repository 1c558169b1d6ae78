"""Our OpenAPI document (3.1). Bodies are read by hand, so that FastAPI cannot know them: each route says what
it takes and gives by `described`, from the models that parse it or that tests hold its answers against.
"""

import re
from http import HTTPStatus
from typing import Any, get_args

from fastapi import FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app.api.answers import (
    CompactedResponse,
    Conversation,
    Deleted,
    DeletedConversation,
    Error,
    Health,
    InputTokens,
    Item,
    ItemList,
    ModelList,
    Path,
    Readiness,
    Response,
    ResponseList,
)
from app.api.compact_body import CompactResponse
from app.api.context_body import Context, ContextDeleted, ContextList, CreateContext
from app.api.conversation_body import CreateConversation, CreateItems, UpdateConversation
from app.api.requests import CountInputTokens, CreateResponse
from app.api.sessions import REQUEST_HEADERS, SESSION_ID, SESSION_TTL
from app.api.stream_events import StreamEvent
from app.prefix.wire import PATH_HEADER, REASON_HEADER

Json = dict[str, Any]

_MODELS: tuple[type[BaseModel], ...] = (
    CreateConversation,
    UpdateConversation,
    CreateItems,
    CreateResponse,
    CountInputTokens,
    CompactResponse,
    CompactedResponse,
    Response,
    ResponseList,
    ItemList,
    Item,
    Conversation,
    DeletedConversation,
    CreateContext,
    Context,
    ContextList,
    ContextDeleted,
    Deleted,
    InputTokens,
    ModelList,
    Health,
    Readiness,
    Error,
    StreamEvent,
)
_REF = "#/components/schemas/{model}"

_STREAM = {
    "schema": {
        "description": "Each event of the stream. In silence there are comments, which clients skip.",
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": {"type": "string", "description": "The `type` of the data."},
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": {"$ref": _REF.format(model="StreamEvent")},
            },
        },
    }
}
"""Of sequential media types, 3.1 says nothing; that `schema` is each event's is how tools read it."""

_TURN_HEADERS = {
    PATH_HEADER: {"description": "What the turn did with its prefix.", "schema": {"enum": [*get_args(Path)]}},
    REASON_HEADER: {"description": "Why it was not a hit.", "schema": {"type": "string"}},
    SESSION_ID: {"description": "As the request has it.", "schema": {"type": "string"}},
    SESSION_TTL: {
        "description": "Seconds that the session's context has left; without one, the turn's prefix.",
        "schema": {"type": "integer"},
    },
}


def described(
    answer: type[BaseModel] | None,
    *refused: int,
    body: type[BaseModel] | None = None,
    query: type[BaseModel] | None = None,
    turn: bool = False,
    streamed: bool = False,
    session: bool = False,
    unavailable: type[BaseModel] = Error,
) -> Json:
    """A route's `openapi_extra`.

    answer: what 200 carries; None for a route that always refuses. refused: statuses of its errors.
    turn: the answer is a turn's, which can be streamed. streamed: it can be. session: it takes a session's
    headers. unavailable: what 503 carries.
    """
    responses: Json = {}
    if answer is not None:
        responses["200"] = {"description": "OK", "content": _json(answer)}
    if turn:
        responses["200"]["headers"] = _TURN_HEADERS
    if turn or streamed:
        responses["200"]["content"]["text/event-stream"] = _STREAM
    for status in refused:
        content = _json(unavailable if status == 503 else Error)
        responses[str(status)] = {"description": HTTPStatus(status).phrase, "content": content}
    extra: Json = {"responses": responses}
    if body is not None:
        extra["requestBody"] = {"required": True, "content": _json(body)}
    if query is not None:
        fields = query.model_json_schema().get("properties", {})
        extra["parameters"] = [
            {"name": name, "in": "query", "required": False, "schema": _given(field)}
            for name, field in fields.items()
        ]
    if session:
        extra["parameters"] = [*extra.get("parameters", ()), *REQUEST_HEADERS]
    return extra


def document(app: FastAPI) -> Json:
    """Of all routes that `described` describes."""
    paths: Json = {}
    for route in app.routes:
        if isinstance(route, APIRoute) and route.openapi_extra:
            for method in route.methods:
                paths.setdefault(route.path_format, {})[method.lower()] = _operation(route)
    schemas = models_json_schema([(model, "validation") for model in _MODELS], ref_template=_REF)[1]
    return {
        "openapi": "3.1.0",
        "info": {"title": app.title, "version": app.version},
        "paths": paths,
        "components": {"schemas": schemas["$defs"]},
    }


def _operation(route: APIRoute) -> Json:
    extra = route.openapi_extra or {}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in re.findall(r"{(\w+)}", route.path_format)
    ]
    operation = {"operationId": route.name, **extra, "parameters": parameters + extra.get("parameters", [])}
    return {**operation, "description": route.description} if route.description else operation


def _json(model: type[BaseModel]) -> Json:
    return {"application/json": {"schema": {"$ref": _REF.format(model=model.__name__)}}}


def _given(field: Json) -> Json:
    """The schema of a parameter where it is given: there is no null in a query."""
    kinds = [kind for kind in field.get("anyOf", ()) if kind["type"] != "null"]
    return kinds[0] if kinds else field
