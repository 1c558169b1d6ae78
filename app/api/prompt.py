"""What makes a prompt: the fields that creating a response and counting its input tokens have in common."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from app.api.items import CompactionTrigger, InputItem, as_item
from app.api.mcp_tools import servers_of
from app.api.strict import ClientJson, Strict, unsupported
from app.api.tools import MAX_TOOLS, AnyTool, ToolChoice, check_tools
from app.conversation.hosted import McpServer
from app.conversation.options import Options
from app.conversation.records import ConversationId, Item, ResponseId
from app.errors import InvalidRequest, MissingParameter

Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Summary = Literal["auto", "concise", "detailed"]


class TextFormat(Strict):
    type: Literal["text"]


class JsonObject(Strict):
    type: Literal["json_object"]


class JsonSchema(Strict):
    type: Literal["json_schema"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
    schema_: Annotated[ClientJson, Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class TextConfig(Strict):
    format: Annotated[TextFormat | JsonObject | JsonSchema, Field(discriminator="type")] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None


def _as_the_template_says(context: Any) -> Any:
    if context in ("current_turn", "all_turns"):
        raise unsupported("What is shown of earlier reasoning is the chat template's to say")
    return context


class ReasoningConfig(Strict):
    effort: Effort | None = None
    summary: Summary | None = None
    generate_summary: Summary | None = None
    context: Annotated[Literal["auto"] | None, BeforeValidator(_as_the_template_says)] = None
    mode: Literal["standard"] | None = None

    @property
    def asked_summary(self) -> str | None:
        return self.summary or self.generate_summary


def one_message(value: Any) -> Any:
    """A plain string is short for one message of the user's."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


_Items = list[InputItem]
Given = Annotated[_Items | None, BeforeValidator(one_message, json_schema_input_type=str | _Items | None)]


class ConversationReference(Strict):
    id: str


def _by_id(value: Any) -> Any:
    return {"id": value} if isinstance(value, str) else value


class Prompt(Strict):
    model: str | None = None
    input: Given = None
    """Only a conversation may go on without."""
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: Annotated[
        ConversationReference | None,
        BeforeValidator(_by_id, json_schema_input_type=str | ConversationReference | None),
    ] = None
    tools: Annotated[list[AnyTool], Field(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = True
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    truncation: Literal["auto", "disabled"] | None = None

    def options(self, **more: Any) -> Options:
        """more: fields of Options that say nothing about the prompt. Raises InvalidRequest."""
        tools = self.tools or ()
        check_tools(tools, self.tool_choice)
        text, choice = self.text or TextConfig(), self.tool_choice or "auto"
        return Options(
            instructions=self.instructions or None,
            tools=tuple(tool.shown() for tool in tools),
            tool_choice=choice if isinstance(choice, str) else choice.model_dump(),
            parallel_tool_calls=self.parallel_tool_calls is not False,
            text_format=(text.format or TextFormat(type="text")).model_dump(by_alias=True, exclude_none=True),
            verbosity=text.verbosity,
            reasoning_effort=self.reasoning.effort if self.reasoning else None,
            **more,
        )

    def items(self) -> tuple[Item, ...]:
        """Raises InvalidRequest where there are none, and no conversation."""
        if self.input is None and self.conversation is None:
            raise MissingParameter("Missing required parameter: 'input'.", param="input")
        if not self.input and self.conversation is None:
            raise InvalidRequest("Invalid 'input': it has to have at least one item.", param="input")
        given = self.input or []
        return tuple(as_item(item) for item in (given[:-1] if self.triggers else given))

    @property
    def triggers(self) -> bool:
        """Whether what is asked for is a compaction, and no answer."""
        return any(isinstance(item, CompactionTrigger) for item in (self.input or [])[-1:])

    def servers(self) -> tuple[McpServer, ...]:
        return servers_of(self.tools or ())

    def parent_id(self) -> ResponseId | None:
        """Raises InvalidRequest where there is a conversation as well."""
        if self.previous_response_id is None:
            return None
        if self.conversation is not None:
            raise InvalidRequest(
                "A turn has a 'previous_response_id' or a 'conversation', not both.", param="conversation"
            )
        return ResponseId(self.previous_response_id)

    def conversation_id(self) -> ConversationId | None:
        return None if self.conversation is None else ConversationId(self.conversation.id)

    def breakpoint_ttls(self) -> Sequence[str | None]:
        """Lifetimes of the explicit cache breakpoints in `input`."""
        parts = (part for item in self.input or () for part in _parts(item))
        found = (getattr(part, "prompt_cache_breakpoint", None) for part in parts)
        return [point.ttl for point in found if point is not None]


def _parts(item: Any) -> Sequence[Any]:
    parts = getattr(item, "content", None) or getattr(item, "output", None) or ()
    return () if isinstance(parts, str) else parts
