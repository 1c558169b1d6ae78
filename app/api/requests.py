"""The body of `POST /v1/responses`: what is accepted, and how the rest is refused by name."""

from typing import Annotated, Any, Literal

from openai.types.responses.response_create_params import ResponseCreateParamsBase
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from app.api.items import ID_PREFIXES, TAGS, InputItem, Strict
from app.conversation.events import new_id
from app.conversation.plan import Caching, TurnRequest
from app.conversation.records import Item, ResponseId
from app.errors import (
    InvalidJson,
    InvalidRequest,
    InvalidType,
    MissingParameter,
    UnknownParameter,
    UnsupportedParameter,
)

_MONTH_S = 30 * 24 * 3600

_KNOWN_TO_OPENAI = frozenset(ResponseCreateParamsBase.__annotations__) | {"stream"}


def _only_functions(tool: Any) -> Any:
    if isinstance(tool, dict) and tool.get("type", "function") != "function":
        raise PydanticCustomError(
            "unsupported", "Tools of type '{kind}' are not supported", {"kind": str(tool["type"])}
        )
    return tool


class FunctionTool(Strict):
    type: Literal["function"]
    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Annotated[bool, BeforeValidator(lambda strict: True if strict is None else strict)] = True


class FunctionChoice(Strict):
    type: Literal["function"]
    name: str


class TextFormat(Strict):
    type: Literal["text"]


class TextConfig(Strict):
    format: TextFormat = TextFormat(type="text")


class CachingField(Strict):
    type: Literal["enabled", "disabled"] = "enabled"
    ttl: int | None = Field(None, ge=1, le=_MONTH_S)
    """Seconds."""


def _metadata_fits(metadata: dict[str, str]) -> dict[str, str]:
    if len(metadata) > 16 or any(len(k) > 64 or len(v) > 512 for k, v in metadata.items()):
        raise PydanticCustomError(
            "metadata", "At most 16 pairs, keys of at most 64 characters, values of at most 512"
        )
    return metadata


def _one_message(value: Any) -> Any:
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


class CreateResponse(Strict):
    model: str | None = None
    input: Annotated[list[InputItem], Field(min_length=1), BeforeValidator(_one_message)]
    instructions: str | None = None
    previous_response_id: str | None = None
    store: bool | None = True
    stream: bool | None = False
    metadata: Annotated[dict[str, str], AfterValidator(_metadata_fits)] | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    max_output_tokens: int | None = Field(None, ge=1)
    tools: list[Annotated[FunctionTool, BeforeValidator(_only_functions)]] | None = None
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | None = None
    parallel_tool_calls: bool | None = True
    user: str | None = None
    caching: CachingField | None = None
    # Accepted only as what they are by default, which is what they are here.
    background: Literal[False] | None = None
    truncation: Literal["disabled"] | None = None
    text: TextConfig | None = None
    include: Annotated[list[str], Field(max_length=0)] | None = None


def parse_create(body: bytes, default_ttl_s: int) -> tuple[TurnRequest, bool]:
    """The turn that a request body asks for, and whether to stream it. Raises InvalidRequest."""
    try:
        request = CreateResponse.model_validate_json(body)
    except ValidationError as exc:
        raise _refusal(exc.errors(include_url=False)[0]) from None
    _check_tool_choice(request)
    caching = request.caching or CachingField()
    choice = request.tool_choice
    turn = TurnRequest(
        model=request.model,
        input=tuple(_item(item) for item in request.input),
        instructions=request.instructions or None,
        previous_response_id=(
            ResponseId(request.previous_response_id) if request.previous_response_id is not None else None
        ),
        store=request.store is not False,
        caching=Caching(enabled=caching.type == "enabled", ttl_s=caching.ttl or default_ttl_s),
        tools=tuple(tool.model_dump() for tool in request.tools or ()),
        tool_choice=choice.model_dump() if isinstance(choice, FunctionChoice) else choice or "auto",
        parallel_tool_calls=request.parallel_tool_calls is not False,
        temperature=request.temperature,
        top_p=request.top_p,
        max_output_tokens=request.max_output_tokens,
        echo={
            "metadata": request.metadata or {},
            "user": request.user,
            "background": False,
            "truncation": "disabled",
            "text": {"format": {"type": "text"}},
        },
    )
    return turn, bool(request.stream)


def _item(item: Any) -> Item:
    dumped: Item = item.model_dump(exclude_none=True)
    return {"id": new_id(ID_PREFIXES[item.type]), **dumped}


def _check_tool_choice(request: CreateResponse) -> None:
    names = {tool.name for tool in request.tools or ()}
    choice = request.tool_choice
    if isinstance(choice, FunctionChoice) and choice.name not in names:
        raise InvalidRequest(
            f"tool_choice names '{choice.name}', which is not in tools.", param="tool_choice"
        )
    if choice == "required" and not names:
        raise InvalidRequest("tool_choice is 'required', but there are no tools.", param="tool_choice")


def _refusal(error: ErrorDetails) -> InvalidRequest:
    """OpenAI's error for pydantic's first one."""
    kind, location = error["type"], _param(error["loc"])
    if kind == "json_invalid":
        return InvalidJson(f"We could not parse the JSON body of your request: {error['msg']}")
    if kind == "missing":
        return MissingParameter(f"Missing required parameter: '{location}'.", param=location)
    if kind == "extra_forbidden" and location in _KNOWN_TO_OPENAI:
        return UnsupportedParameter(f"Unsupported parameter: '{location}'.", param=location)
    if kind == "extra_forbidden":
        return UnknownParameter(f"Unknown parameter: '{location}'.", param=location)
    message = f"Invalid '{location}': {error['msg']}." if location else f"Invalid body: {error['msg']}."
    if kind.endswith("_type"):
        return InvalidType(message, param=location)
    if kind == "unsupported" or location in ("background", "truncation", "include"):
        return UnsupportedParameter(message, param=location)
    return InvalidRequest(message, param=location)


def _param(location: tuple[int | str, ...]) -> str | None:
    """`input[0].content`, without the names of union members that pydantic adds."""
    path = ""
    for before, step in zip((None, *location), location, strict=False):
        if isinstance(step, int):
            path += f"[{step}]"
        elif not (isinstance(before, int) and step in TAGS) and step not in _UNION_MEMBERS:
            path += f".{step}" if path else step
    return path or None


_UNION_MEMBERS = frozenset({"FunctionChoice", "literal['none','auto','required']"})
