"""The routes that OpenAI's SDKs call, and the two that operators call."""

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from app.api import answers, body
from app.api.openapi import described
from app.api.requests import CountInputTokens, CreateResponse, parse, parse_create
from app.api.streaming import EventStream, one_object
from app.conversation.engine import Engine
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


async def _services(request: Request) -> Services:
    # Async, or FastAPI would call it in a thread.
    services: Services = request.app.state.services
    return services


Given = Annotated[Services, Depends(_services)]
router = APIRouter()


@router.post(
    "/v1/responses",
    openapi_extra=described(answers.Response, 400, 404, 413, 502, 503, body=CreateResponse, turn=True),
)
async def create_response(request: Request, services: Given) -> Response:
    turn_request, stream = parse_create(await body.read(request), services.prefix_ttl_seconds)
    turn = await services.turns.start(turn_request, DEFAULT_TENANT)
    return EventStream(turn) if stream else await one_object(turn, request)


@router.post(
    "/v1/responses/input_tokens",
    openapi_extra=described(answers.InputTokens, 400, 404, 413, 502, 503, body=CountInputTokens),
)
async def count_input_tokens(request: Request, services: Given) -> dict[str, Any]:
    """Exact: the prompt is made as for an answer, by a worker."""
    turn_request = parse(CountInputTokens, await body.read(request)).turn()
    tokens = await services.turns.count(turn_request, DEFAULT_TENANT)
    return {"object": "response.input_tokens", "input_tokens": tokens}


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
