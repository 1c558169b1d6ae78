"""Tools and `tool_choice`: what a request may say of them, and what the response repeats."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag

from app.api.mcp_tools import MAX_SERVERS, McpTool, NamedMcpTool
from app.api.strict import ClientJson, Strict, refusing, unsupported
from app.errors import InvalidRequest

HOSTED = frozenset(
    {
        "apply_patch",
        "code_interpreter",
        "computer",
        "computer_use",
        "computer_use_preview",
        "file_search",
        "image_generation",
        "local_shell",
        "namespace",
        "programmatic_tool_calling",
        "shell",
        "tool_search",
        "web_search",
        "web_search_2025_08_26",
        "web_search_preview",
        "web_search_preview_2025_03_11",
    }
)
"""OpenAI's tools that run on its side, or need what does."""

MAX_TOOLS = 1024
"""vLLM makes one grammar of all; of some thousands it does so for a minute."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Tool(Strict):
    name: Name
    description: str | None = None
    # Of hosted features: only what they are without them.
    allowed_callers: list[Literal["direct"]] | None = None
    defer_loading: Literal[False] | None = None
    async_: Annotated[Literal[False] | None, Field(alias="async")] = None


class FunctionTool(Tool):
    type: Literal["function"]
    parameters: ClientJson | None = None
    strict: Annotated[
        bool, BeforeValidator(lambda v: True if v is None else v, json_schema_input_type=bool | None)
    ] = True
    output_schema: None = None

    def shown(self) -> dict[str, Any]:
        return self.model_dump(include={"type", "name", "description", "parameters", "strict"})


class TextInput(Strict):
    type: Literal["text"]


def _regex(syntax: str) -> str:
    if syntax == "lark":
        raise unsupported("Grammars in lark are not supported; a regex is")
    return syntax


class GrammarInput(Strict):
    type: Literal["grammar"]
    definition: str
    syntax: Annotated[Literal["lark", "regex"], AfterValidator(_regex)]


class CustomTool(Tool):
    type: Literal["custom"]
    format: Annotated[TextInput | GrammarInput, Field(discriminator="type")] = TextInput(type="text")

    def shown(self) -> dict[str, Any]:
        return self.model_dump(include={"type", "name", "description", "format"}, exclude_none=True)


AnyTool = Annotated[
    Annotated[FunctionTool | CustomTool | McpTool, Field(discriminator="type")], refusing(HOSTED, "Tools")
]


class NamedTool(Strict):
    type: Literal["function", "custom"]
    name: str


class AllowedTools(Strict):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[
        list[
            Annotated[
                Annotated[NamedTool | NamedMcpTool, Field(discriminator="type")], refusing(HOSTED, "Tools")
            ]
        ],
        Field(min_length=1),
    ]


def _form(choice: Any) -> str:
    kind = choice.get("type") if isinstance(choice, dict) else getattr(choice, "type", None)
    if kind in ("allowed_tools", "mcp"):
        return str(kind)
    return "mode" if isinstance(choice, str) else "named"


ToolChoice = Annotated[
    Annotated[
        Annotated[Literal["none", "auto", "required"], Tag("mode")]
        | Annotated[NamedTool, Tag("named")]
        | Annotated[NamedMcpTool, Tag("mcp")]
        | Annotated[AllowedTools, Tag("allowed_tools")],
        Discriminator(_form),
    ],
    refusing(HOSTED, "Tools"),
]


def check_tools(tools: Sequence[FunctionTool | CustomTool | McpTool], choice: Any) -> None:
    """Raises InvalidRequest where tools share a name or servers a label, where there are too many servers, or
    where `tool_choice` needs a tool that is not there."""
    known = set[tuple[str, str]]()
    taken = set[tuple[str, str]]()
    for position, tool in enumerate(tools):
        field = "server_label" if isinstance(tool, McpTool) else "name"
        name = getattr(tool, field)
        if (field, name) in taken:
            param = f"tools[{position}].{field}"
            raise InvalidRequest(f"Invalid '{param}': two tools are named '{name}'.", param=param)
        taken.add((field, name))
        known.add((tool.type, name))
    if sum(kind == "mcp" for kind, _ in known) > MAX_SERVERS:
        raise InvalidRequest(f"At most {MAX_SERVERS} MCP servers can be used at once.", param="tools")
    if choice == "required" and not tools:
        raise InvalidRequest("tool_choice is 'required', but there are no tools.", param="tool_choice")
    named = choice.tools if isinstance(choice, AllowedTools) else [choice]
    for choice in named:
        if not isinstance(choice, NamedTool | NamedMcpTool):
            continue
        name = choice.name if isinstance(choice, NamedTool) else choice.server_label
        if (choice.type, name) not in known:
            raise InvalidRequest(
                f"tool_choice names the {choice.type} tool '{name}', which is not in tools.",
                param="tool_choice",
            )
