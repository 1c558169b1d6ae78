"""Input items: what each may hold. Anything else is refused with its place."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from app.api.mcp_items import McpApprovalRequest, McpApprovalResponse, McpCall, McpListTools
from app.api.strict import ClientJson, Direct, Strict, refusing, unsupported
from app.conversation.output import new_id
from app.conversation.records import Item
from app.errors import InvalidRequest

Status = Literal["in_progress", "completed", "incomplete"]
ItemId = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]*$")]
"""The database has an index of them."""
Ttl = Literal["30m", "12h"]

UNSUPPORTED_ITEMS = frozenset(
    {
        "additional_tools",
        "apply_patch_call",
        "apply_patch_call_output",
        "code_interpreter_call",
        "computer_call",
        "computer_call_output",
        "configuration_update",
        "file_search_call",
        "image_generation_call",
        "local_shell_call",
        "local_shell_call_output",
        "program",
        "program_output",
        "shell_call",
        "shell_call_output",
        "tool_search_call",
        "tool_search_output",
        "web_search_call",
    }
)


class Breakpoint(Strict):
    mode: Literal["explicit"]
    ttl: Ttl | None = None


class InputText(Strict):
    type: Literal["input_text"]
    text: str
    prompt_cache_breakpoint: Breakpoint | None = None


def _no_file_id(file_id: Any) -> None:
    if file_id is not None:
        raise unsupported("There are no uploaded files here: give an image by image_url")


class InputImage(Strict):
    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto", "low", "high", "original"] | None = None
    file_id: Annotated[None, BeforeValidator(_no_file_id)] = None
    prompt_cache_breakpoint: Breakpoint | None = None


class OutputText(Strict):
    type: Literal["output_text"]
    text: str
    annotations: Annotated[list[ClientJson], Field(default_factory=list)]
    logprobs: list[ClientJson] | None = None


class Refusal(Strict):
    type: Literal["refusal"]
    refusal: str


class SummaryText(Strict):
    type: Literal["summary_text"]
    text: str


class ReasoningText(Strict):
    type: Literal["reasoning_text"]
    text: str


def _as_parts(kind: str, parts: Any) -> BeforeValidator:
    """A plain string is short for one part. parts: the type of a list of them."""
    return BeforeValidator(
        lambda v: [{"type": kind, "text": v}] if isinstance(v, str) else v, json_schema_input_type=str | parts
    )


InputPart = Annotated[
    Annotated[InputText | InputImage, Field(discriminator="type")],
    refusing(frozenset({"input_file", "input_audio"}), "Content parts"),
]
_InputParts = Annotated[list[InputPart], Field(min_length=1)]
InputParts = Annotated[_InputParts, _as_parts("input_text", _InputParts)]
_OutputParts = list[Annotated[OutputText | Refusal, Field(discriminator="type")]]
OutputParts = Annotated[_OutputParts, _as_parts("output_text", _OutputParts)]


class InputMessage(Strict):
    type: Literal["message"] = "message"
    id: ItemId | None = None
    status: Status | None = None
    role: Literal["user", "system", "developer"]
    content: InputParts
    phase: None = None


class AssistantMessage(Strict):
    type: Literal["message"] = "message"
    id: ItemId | None = None
    status: Status | None = None
    role: Literal["assistant"]
    content: OutputParts
    phase: Literal["commentary", "final_answer"] | None = None


class Reasoning(Strict):
    type: Literal["reasoning"]
    id: ItemId | None = None
    status: Status | None = None
    summary: Annotated[list[SummaryText], Field(default_factory=list)]
    content: list[ReasoningText] | None = None
    encrypted_content: str | None = None


class ToolItem(Strict):
    id: ItemId | None = None
    status: Status | None = None
    call_id: Annotated[str, Field(min_length=1)]
    # Of hosted features: only what they are without them.
    caller: Direct | None = None
    namespace: None = None
    created_by: None = None


class Call(ToolItem):
    name: str
    async_: Annotated[Literal[False] | None, Field(alias="async")] = None


class FunctionCall(Call):
    type: Literal["function_call"]
    arguments: str


class CustomToolCall(Call):
    type: Literal["custom_tool_call"]
    input: str


class ToolOutput(ToolItem):
    output: InputParts


class FunctionCallOutput(ToolOutput):
    type: Literal["function_call_output"]
    name: str | None = None


class CustomToolCallOutput(ToolOutput):
    type: Literal["custom_tool_call_output"]


class ItemReference(Strict):
    type: Literal["item_reference"] = "item_reference"
    id: ItemId


class Compaction(Strict):
    type: Literal["compaction"]
    id: ItemId | None = None
    encrypted_content: Annotated[str, Field(min_length=1)]
    created_by: None = None


class CompactionTrigger(Strict):
    """Asks for a compaction of all that is before it, in place of an answer."""

    type: Literal["compaction_trigger"]
    id: ItemId | None = None


def _kind(item: Any) -> str:
    if not isinstance(item, dict):
        return "message"
    kind = item.get("type")
    if kind is None:
        # A reference may leave its type out, and so may a message.
        kind = "item_reference" if item.keys() <= {"id", "type"} and "id" in item else "message"
    if kind == "message" and item.get("role") == "assistant":
        return "assistant"
    return kind if isinstance(kind, str) else "message"


def _typed(item: Any) -> Any:
    """A null type is none."""
    if isinstance(item, dict) and "type" in item and item["type"] is None:
        return {k: v for k, v in item.items() if k != "type"}
    if not isinstance(item, dict):
        raise PydanticCustomError("item_type", "An input item must be an object")
    return item


InputItem = Annotated[
    Annotated[
        Annotated[InputMessage, Tag("message")]
        | Annotated[AssistantMessage, Tag("assistant")]
        | Annotated[Reasoning, Tag("reasoning")]
        | Annotated[FunctionCall, Tag("function_call")]
        | Annotated[FunctionCallOutput, Tag("function_call_output")]
        | Annotated[CustomToolCall, Tag("custom_tool_call")]
        | Annotated[CustomToolCallOutput, Tag("custom_tool_call_output")]
        | Annotated[Compaction, Tag("compaction")]
        | Annotated[CompactionTrigger, Tag("compaction_trigger")]
        | Annotated[McpListTools, Tag("mcp_list_tools")]
        | Annotated[McpCall, Tag("mcp_call")]
        | Annotated[McpApprovalRequest, Tag("mcp_approval_request")]
        | Annotated[McpApprovalResponse, Tag("mcp_approval_response")]
        | Annotated[ItemReference, Tag("item_reference")],
        Discriminator(
            _kind,
            custom_error_type="item_kind",
            custom_error_message="There is no input item of this type",
        ),
    ],
    BeforeValidator(_typed),
    refusing(UNSUPPORTED_ITEMS, "Input items"),
]

_ID_PREFIXES = {
    "message": "msg",
    "reasoning": "rs",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "mcp_list_tools": "mcpl",
    "mcp_call": "mcp",
    "mcp_approval_request": "mcpr",
    "mcp_approval_response": "mcpa",
    "compaction": "cmp",
}


def as_item(item: Any) -> Item:
    """The item as it is kept: with an id of its own where the client gave none. Raises InvalidRequest for
    what is no item to keep."""
    if isinstance(item, CompactionTrigger):
        raise InvalidRequest("The 'compaction_trigger' item must be the final input item.", param="input")
    if isinstance(item, ItemReference):
        return item.model_dump()
    unset = {"caller", "async_"}
    dumped: Item = item.model_dump(exclude_none=True, exclude=unset)
    for part in _images(dumped):
        part.setdefault("detail", "auto")
    return {"id": new_id(_ID_PREFIXES[item.type]), **dumped}


def _images(item: Item) -> list[dict[str, Any]]:
    parts = item.get("content") or item.get("output") or ()
    return [] if isinstance(parts, str) else [part for part in parts if part["type"] == "input_image"]
