"""Input items: what each may hold. Anything else is refused with its place."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

Status = Literal["in_progress", "completed", "incomplete"]


class Strict(BaseModel):
    """A part of a request: exact types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class InputText(Strict):
    type: Literal["input_text"]
    text: str


class OutputText(Strict):
    type: Literal["output_text"]
    text: str
    annotations: list[dict[str, Any]] = []
    logprobs: list[dict[str, Any]] | None = None


class Refusal(Strict):
    type: Literal["refusal"]
    refusal: str


class SummaryText(Strict):
    type: Literal["summary_text"]
    text: str


class ReasoningText(Strict):
    type: Literal["reasoning_text"]
    text: str


def _as_parts(kind: str) -> BeforeValidator:
    """A plain string is short for one part."""
    return BeforeValidator(lambda v: [{"type": kind, "text": v}] if isinstance(v, str) else v)


InputParts = Annotated[list[InputText], Field(min_length=1), _as_parts("input_text")]
OutputParts = Annotated[
    list[Annotated[OutputText | Refusal, Field(discriminator="type")]], _as_parts("output_text")
]


class InputMessage(Strict):
    type: Literal["message"] = "message"
    id: str | None = None
    status: Status | None = None
    role: Literal["user", "system", "developer"]
    content: InputParts


class AssistantMessage(Strict):
    type: Literal["message"] = "message"
    id: str | None = None
    status: Status | None = None
    role: Literal["assistant"]
    content: OutputParts
    phase: Literal["commentary", "final_answer"] | None = None


class Reasoning(Strict):
    type: Literal["reasoning"]
    id: str | None = None
    status: Status | None = None
    summary: list[SummaryText] = []
    content: list[ReasoningText] | None = None
    encrypted_content: None = None


class FunctionCall(Strict):
    type: Literal["function_call"]
    id: str | None = None
    status: Status | None = None
    call_id: str
    name: str
    arguments: str


class FunctionCallOutput(Strict):
    type: Literal["function_call_output"]
    id: str | None = None
    status: Status | None = None
    call_id: str
    output: InputParts


def _kind(item: Any) -> str:
    if not isinstance(item, dict):
        return "message"
    kind = item.get("type", "message")
    if kind == "message" and item.get("role") == "assistant":
        return "assistant"
    return kind if isinstance(kind, str) else "message"


InputItem = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[AssistantMessage, Tag("assistant")]
    | Annotated[Reasoning, Tag("reasoning")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")],
    Discriminator(_kind),
]

TAGS = frozenset(
    {"message", "assistant", "reasoning", "function_call", "function_call_output", "output_text", "refusal"}
)
"""What pydantic puts into an error's location beside field names."""

ID_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}
