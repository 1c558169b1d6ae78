"""Contexts as they are asked for and answered, and how their fields stand in for those of a turn."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field

from app.api.answers import Answer, Page
from app.api.items import InputItem, as_item
from app.api.prompt import ReasoningConfig, TextConfig, one_message
from app.api.query import Listing
from app.api.requests import (
    MAX_TTL_S,
    CachingField,
    CountInputTokens,
    CreateResponse,
    Metadata,
    PromptCacheOptions,
)
from app.api.strict import ClientJson, Strict, unsupported
from app.api.tools import MAX_TOOLS, AnyTool, ToolChoice
from app.conversation.plan import TurnRequest
from app.conversation.records import Item
from app.errors import MissingParameter

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.:/-]{0,127}$")]
"""Not unique, and no address: a turn names a context by its id."""


def _called_by_the_client(tools: list[Any]) -> list[Any]:
    if any(tool.type not in ("function", "custom") for tool in tools):
        raise unsupported("A context keeps function and custom tools; others are given with each turn")
    return tools


def _items(value: Any) -> Any:
    return [] if value is None else one_message(value)


class _Prewarming(CreateResponse):
    def items(self) -> tuple[Item, ...]:
        """There may be none: nothing is asked."""
        return tuple(as_item(item) for item in self.input or ())


class ContextPrompt(Strict):
    """The fields that make a prompt, less its items."""

    model: str | None = None
    instructions: str | None = None
    tools: (
        Annotated[list[AnyTool], Field(max_length=MAX_TOOLS), AfterValidator(_called_by_the_client)] | None
    ) = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    chat_template_kwargs: ClientJson | None = None

    def request(self, ttl_s: int, **more: Any) -> TurnRequest:
        """For a turn that generates nothing and whose prefix is kept for `ttl_s` seconds. more: other fields
        of CreateResponse. Raises InvalidRequest."""
        own = {name: getattr(self, name) for name in ContextPrompt.model_fields}
        asked = _Prewarming.model_construct(
            **{"input": [], **own, **more},
            caching=CachingField.model_construct(ttl=ttl_s),
            prompt_cache_options=PromptCacheOptions(prewarm=True),
        )
        return asked.turn(ttl_s)


class CreateContext(ContextPrompt):
    input: Annotated[
        list[InputItem], BeforeValidator(_items, json_schema_input_type=str | list[InputItem] | None)
    ] = Field(default_factory=list)
    name: Name | None = None
    metadata: Metadata | None = None
    ttl: int | None = Field(None, ge=1, le=MAX_TTL_S)
    """Seconds."""

    def turn(self, default_ttl_s: int) -> TurnRequest:
        """Raises InvalidRequest."""
        if not self.instructions and not self.input:
            raise MissingParameter("A context needs instructions or input.", param="input")
        return self.request(self.ttl or default_ttl_s, input=self.input, metadata=self.metadata)

    def kept(self) -> dict[str, Any]:
        """What a ContextPrompt can be made of again."""
        names = set(ContextPrompt.model_fields)
        return self.model_dump(mode="json", include=names, exclude_none=True, by_alias=True)


Asked = TypeVar("Asked", CreateResponse, CountInputTokens)
Config = TypeVar("Config", TextConfig, ReasoningConfig)


def completed(asked: Asked, prompt: ContextPrompt) -> Asked:
    """The request with the context's fields in place of those that it leaves out or gives as null."""
    update: dict[str, Any] = {}
    for name in ContextPrompt.model_fields:
        theirs, own = getattr(prompt, name), getattr(asked, name)
        if theirs is None:
            continue
        if own is None or name not in asked.model_fields_set:
            update[name] = theirs
        elif isinstance(own, TextConfig | ReasoningConfig):
            update[name] = _completed(own, theirs)
    if asked.tools is not None:
        # It chooses among the context's tools, which are not offered.
        update.pop("tool_choice", None)
    return asked.model_copy(update=update)


def _completed(own: Config, theirs: Config) -> Config:
    left_out = {name for name in type(own).model_fields if getattr(own, name) is None}
    return own.model_copy(update={name: getattr(theirs, name) for name in left_out})


class ListingContexts(Listing):
    name: Name | None = None


class Context(Answer):
    """expires_at: it can be used until then. ttl: seconds, as it was asked for or last renewed. status:
    whether a worker keeps its prefix; where none does, turns mean the same and render it. token_count: of its
    prompt, with what the template adds to ask for an answer."""

    id: str
    object: Literal["context"]
    created_at: int
    expires_at: int
    ttl: int
    name: str | None
    status: Literal["ready", "cold"]
    token_count: int
    response_id: str
    model: str
    instructions: str | None
    tools: list[AnyTool]
    tool_choice: ToolChoice
    parallel_tool_calls: bool
    text: TextConfig
    reasoning: ReasoningConfig
    chat_template_kwargs: dict[str, Any] | None
    metadata: dict[str, str]


class ContextList(Page):
    data: list[Context]


class ContextDeleted(Answer):
    id: str
    object: Literal["context"]
    deleted: Literal[True]
