"""What the routes answer, for the OpenAPI document. The answers themselves are made in app/conversation.

Fields that an answer repeats from its request have the request's types, and so have items: what is given can
be sent back.
"""

from typing import Annotated, Literal

from openai.types.responses import ResponseUsage
from openai.types.responses.response import PromptCacheDiagnostics
from pydantic import BaseModel, ConfigDict, Field, RootModel

from app.api.items import (
    Compaction,
    CustomToolCall,
    FunctionCall,
    InputItem,
    ItemId,
    OutputText,
    Reasoning,
    Status,
)
from app.api.mcp_items import McpApprovalRequest, McpCall, McpListTools
from app.api.prompt import ConversationReference, ReasoningConfig, TextConfig
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


class CompactionItem(Compaction):
    """What came before it, sealed."""

    id: ItemId


class McpListToolsItem(McpListTools):
    id: ItemId


class McpCallItem(McpCall):
    """One that was cut off (`incomplete`) was not made."""

    status: Literal["in_progress", "completed", "incomplete", "failed"]


OutputItem = Annotated[
    OutputMessage
    | CompactionItem
    | ReasoningItem
    | FunctionCallItem
    | CustomToolCallItem
    | McpListToolsItem
    | McpCallItem
    | McpApprovalRequest,
    Field(discriminator="type"),
]


class Round(Answer):
    """One answer of the model, of several. output_index: how many output items its prompt had already."""

    output_index: int
    path: Path
    reason: str | None
    reused_tokens: int
    tokenized_tokens: int
    sampled_reused: int


class CompactionCaching(Answer):
    """What the summary did with the prefix, and its part of the usage."""

    path: Path
    reason: str | None
    reused_tokens: int
    tokenized_tokens: int
    sampled_reused: int
    input_tokens: int
    output_tokens: int


class CachingResult(Answer):
    """What the turn did with its prefix."""

    type: Literal["enabled", "disabled"]
    path: Path | None
    """Null as long as that is not known: a response in the background."""
    reason: str | None
    reused_tokens: int = 0
    tokenized_tokens: int = 0
    sampled_reused: int = 0
    compaction: CompactionCaching | None = None
    rounds: list[Round] | None = None
    """Where the model was asked again with what its calls came to: each time."""


class IncompleteDetails(Answer):
    reason: Literal["max_output_tokens"]


class Failure(Answer):
    code: Literal["invalid_prompt", "server_error"]
    message: str


class Response(Answer):
    id: str
    object: Literal["response"]
    created_at: int
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    completed_at: int | None
    error: Failure | None
    incomplete_details: IncompleteDetails | None
    model: str
    instructions: str | None
    previous_response_id: str | None
    conversation: ConversationReference | None
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
    background: bool
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


class CompactedResponse(Answer):
    id: str
    object: Literal["response.compaction"]
    created_at: int
    output: list[CompactionItem]
    usage: ResponseUsage


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


class Item(RootModel[InputItem]):
    """An item of a conversation."""


class Conversation(Answer):
    id: str
    object: Literal["conversation"]
    created_at: int
    metadata: dict[str, str]


class DeletedConversation(Answer):
    id: str
    object: Literal["conversation.deleted"]
    deleted: Literal[True]


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
