"""The events of a streamed answer, for the OpenAPI document. app/conversation/output.py makes them."""

from typing import Annotated, Literal

from pydantic import Field, RootModel

from app.api.answers import Answer, OutputItem, Response
from app.api.items import OutputText, ReasoningText, SummaryText


class Event(Answer):
    sequence_number: int
    """From 0, without gaps."""


class ResponseEvent(Event):
    type: Literal[
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: Response


class ErrorEvent(Event):
    """The server broke off: nothing follows."""

    type: Literal["error"]
    code: str | None
    message: str
    param: str | None


class ItemEvent(Event):
    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class WithinItem(Event):
    item_id: str
    output_index: int


class ContentPartEvent(WithinItem):
    type: Literal["response.content_part.added", "response.content_part.done"]
    content_index: int
    part: Annotated[OutputText | ReasoningText, Field(discriminator="type")]


class SummaryPartEvent(WithinItem):
    type: Literal["response.reasoning_summary_part.added", "response.reasoning_summary_part.done"]
    summary_index: int
    part: SummaryText


class TopLogprob(Answer):
    token: str
    logprob: float


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class TextDelta(WithinItem):
    type: Literal["response.output_text.delta"]
    content_index: int
    delta: str
    logprobs: list[TokenLogprob]


class TextDone(WithinItem):
    type: Literal["response.output_text.done"]
    content_index: int
    text: str
    logprobs: list[TokenLogprob]


class ReasoningDelta(WithinItem):
    type: Literal["response.reasoning_text.delta"]
    content_index: int
    delta: str


class ReasoningDone(WithinItem):
    type: Literal["response.reasoning_text.done"]
    content_index: int
    text: str


class SummaryDelta(WithinItem):
    type: Literal["response.reasoning_summary_text.delta"]
    summary_index: int
    delta: str


class SummaryDone(WithinItem):
    type: Literal["response.reasoning_summary_text.done"]
    summary_index: int
    text: str


class CallDelta(WithinItem):
    type: Literal[
        "response.function_call_arguments.delta",
        "response.custom_tool_call_input.delta",
        "response.mcp_call_arguments.delta",
    ]
    delta: str


class FunctionCallDone(WithinItem):
    type: Literal["response.function_call_arguments.done"]
    arguments: str


class CustomToolCallDone(WithinItem):
    type: Literal["response.custom_tool_call_input.done"]
    input: str


class Compacting(WithinItem):
    """The model begins to summarise."""

    type: Literal["response.compaction.compacting"]


class McpCallDone(WithinItem):
    type: Literal["response.mcp_call_arguments.done"]
    arguments: str


class McpEvent(WithinItem):
    type: Literal[
        "response.mcp_list_tools.in_progress",
        "response.mcp_list_tools.completed",
        "response.mcp_list_tools.failed",
        "response.mcp_call.in_progress",
        "response.mcp_call.completed",
        "response.mcp_call.failed",
    ]


class StreamEvent(
    RootModel[
        Annotated[
            ResponseEvent
            | ErrorEvent
            | ItemEvent
            | ContentPartEvent
            | SummaryPartEvent
            | TextDelta
            | TextDone
            | ReasoningDelta
            | ReasoningDone
            | SummaryDelta
            | SummaryDone
            | CallDelta
            | FunctionCallDone
            | CustomToolCallDone
            | McpCallDone
            | McpEvent
            | Compacting,
            Field(discriminator="type"),
        ]
    ]
):
    """One event of a streamed answer."""
