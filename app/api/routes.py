"""The routes that OpenAI's SDKs call, and the two that operators call."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from app.api import answers, body
from app.api.compact_body import CompactResponse
from app.api.openapi import described
from app.api.requests import CountInputTokens, CreateResponse, parse
from app.api.sessions import session_of
from app.api.streaming import EventStream, LogStream, one_object, unless_gone
from app.conversation.background import Background
from app.conversation.contexts import Contexts
from app.conversation.conversations import Conversations
from app.conversation.engine import Engine
from app.conversation.plan import TurnRequest
from app.conversation.records import DEFAULT_TENANT, ResponseStore
from app.conversation.responses import Responses
from app.conversation.turns import Turns
from app.errors import MarginaliaError, ModelNotFound


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes are given; found at `app.state.services`."""

    store: ResponseStore
    engine: Engine
    turns: Turns
    responses: Responses
    prefix_ttl_seconds: int
    conversations: Conversations
    contexts: Contexts
    background: Background


async def _services(request: Request) -> Services:
    # Async, or FastAPI would call it in a thread.
    services: Services = request.app.state.services
    return services


Given = Annotated[Services, Depends(_services)]
router = APIRouter()


@router.post(
    "/v1/responses",
    openapi_extra=described(
        answers.Response, 400, 404, 409, 413, 502, 503, body=CreateResponse, turn=True, session=True
    ),
)
async def create_response(request: Request, services: Given) -> Response:
    asked = parse(CreateResponse, await body.read(request))
    session = await session_of(request.headers, services.contexts, DEFAULT_TENANT, renew=True)
    asked = session.completed(asked)
    turn_request = session.starting(asked.turn(services.prefix_ttl_seconds))
    if turn_request.background:
        return await _in_background(services, turn_request, asked.streamed, session.headers(turn_request))
    turn = await services.turns.start(turn_request, DEFAULT_TENANT)
    session.began(services.contexts, turn)
    answer = EventStream(turn) if asked.streamed else await one_object(turn, request)
    answer.headers.update(session.headers(turn_request))
    return answer


async def _in_background(
    services: Services, turn_request: TurnRequest, stream: bool, headers: dict[str, str]
) -> Response:
    response = await services.background.create(DEFAULT_TENANT, turn_request)
    if not stream:
        return JSONResponse(response, headers=headers)
    answer = LogStream(await services.background.follow(DEFAULT_TENANT, response["id"]))
    answer.headers.update(headers)
    return answer


@router.post(
    "/v1/responses/input_tokens",
    openapi_extra=described(
        answers.InputTokens, 400, 404, 413, 502, 503, body=CountInputTokens, session=True
    ),
)
async def count_input_tokens(request: Request, services: Given) -> dict[str, Any]:
    """Exact: the prompt is made as for an answer, by a worker."""
    asked = parse(CountInputTokens, await body.read(request))
    session = await session_of(request.headers, services.contexts, DEFAULT_TENANT, renew=False)
    turn_request = session.starting(session.completed(asked).turn())
    tokens = await services.turns.count(turn_request, DEFAULT_TENANT)
    return {"object": "response.input_tokens", "input_tokens": tokens}


@router.post(
    "/v1/responses/compact",
    openapi_extra=described(answers.CompactedResponse, 400, 404, 413, 502, 503, body=CompactResponse),
)
async def compact_response(request: Request, services: Given) -> Response:
    """Nothing is stored: the item that it gives is all that there is of it."""
    asked = parse(CompactResponse, await body.read(request))
    return await unless_gone(services.turns.compact(asked.turn(), DEFAULT_TENANT), request)


@router.get("/v1/models", openapi_extra=described(answers.ModelList))
async def list_models(services: Given) -> dict[str, Any]:
    return {"object": "list", "data": services.engine.models()}


@router.get("/v1/models/{model:path}", openapi_extra=described(answers.Model, 404))
async def retrieve_model(model: str, services: Given) -> dict[str, Any]:
    for served in services.engine.models():
        if served["id"] == model:
            return served
    raise ModelNotFound(f"The model '{model}' does not exist.", param="model")


@router.get("/health", openapi_extra=described(answers.Health))
async def health() -> dict[str, str]:
    """The process answers."""
    return {"status": "ok"}


@router.get("/ready", openapi_extra=described(answers.Readiness, 503, unavailable=answers.Readiness))
async def ready(services: Given) -> JSONResponse:
    """Turns can be served: Postgres answers and a vLLM server is there."""
    checks = {"postgres": "ok", "engine": "ok"}
    for name, check in (("postgres", services.store.ping), ("engine", services.engine.ping)):
        try:
            await check()
        except MarginaliaError as exc:
            checks[name] = exc.message
    all_ok = set(checks.values()) == {"ok"}
    return JSONResponse({"status": "ok" if all_ok else "unavailable", **checks}, 200 if all_ok else 503)
