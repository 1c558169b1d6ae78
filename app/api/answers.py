"""What the routes answer, for the OpenAPI document. The answers themselves are made in app/conversation.

Fields that an answer repeats from its request have the request's types, and so have items: what is given can
be sent back.
"""

from typing import Annotated, Literal

from openai.types.responses import ResponseUsage
from openai.types.responses.response import PromptCacheDiagnostics
from pydantic import BaseModel, ConfigDict, Field

from app.api.items import (
    CustomToolCall,
    FunctionCall,
    InputItem,
    ItemId,
    OutputText,
    Reasoning,
    Status,
)
from app.api.prompt import ReasoningConfig, TextConfig
from app.api.requests import PromptCacheOptions
from app.api.tools import AnyTool, ToolChoice

Path = Literal["hit", "rewind", "reseed", "full"]


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


class OutputMessage(Answer):
    type: Literal["message"]
    id: ItemId
    status: Status
    role: Literal["assistant"]
    content: list[OutputText]


class ReasoningItem(Reasoning):
    id: ItemId
    status: Status


class FunctionCallItem(FunctionCall):
    id: ItemId
    status: Status


class CustomToolCallItem(CustomToolCall):
    """It has a status only where it was cut off."""

    id: ItemId


OutputItem = Annotated[
    OutputMessage | ReasoningItem | FunctionCallItem | CustomToolCallItem, Field(discriminator="type")
]


class CachingResult(Answer):
    """What the turn did with its prefix."""

    type: Literal["enabled", "disabled"]
    path: Path
    reason: str | None
    reused_tokens: int = 0
    tokenized_tokens: int = 0
    sampled_reused: int = 0


class IncompleteDetails(Answer):
    reason: Literal["max_output_tokens"]


class Failure(Answer):
    code: Literal["invalid_prompt", "server_error"]
    message: str


class Response(Answer):
    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    completed_at: int | None
    error: Failure | None
    incomplete_details: IncompleteDetails | None
    model: str
    instructions: str | None
    previous_response_id: str | None
    tools: list[AnyTool]
    tool_choice: ToolChoice
    parallel_tool_calls: bool
    temperature: float | None
    top_p: float | None
    top_logprobs: int
    max_output_tokens: int | None
    max_tool_calls: int | None
    text: TextConfig
    reasoning: ReasoningConfig
    truncation: Literal["auto", "disabled"]
    background: Literal[False]
    metadata: dict[str, str]
    service_tier: Literal["default"]
    safety_identifier: str | None
    user: str | None
    prompt_cache_key: str | None
    prompt_cache_retention: Literal["in_memory", "24h"] | None
    prompt_cache_options: PromptCacheOptions | None
    prompt_cache_diagnostics: PromptCacheDiagnostics | None
    output: list[OutputItem]
    usage: ResponseUsage | None
    caching: CachingResult


class Page(Answer):
    """A part of a list. The next part is `after` its `last_id`."""

    object: Literal["list"]
    first_id: str | None
    last_id: str | None
    has_more: bool


class ResponseList(Page):
    data: list[Response]


class ItemList(Page):
    data: list[InputItem]


class Deleted(Answer):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputTokens(Answer):
    object: Literal["response.input_tokens"]
    input_tokens: int


class Model(Answer):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(Answer):
    object: Literal["list"]
    data: list[Model]


class Health(Answer):
    status: Literal["ok"]


class Readiness(Answer):
    """`ok` of each part, or what is wrong with it."""

    status: Literal["ok", "unavailable"]
    postgres: str
    engine: str


class ErrorObject(Answer):
    """param: the field at fault, where there is one."""

    message: str
    type: Literal["invalid_request_error", "server_error"]
    param: str | None
    code: str | None


class Error(Answer):
    error: ErrorObject
