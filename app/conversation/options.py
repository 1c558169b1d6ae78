"""What a client asks of one generation."""

from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Settings of one generation, the same whatever way its prompt takes. None leaves one to vLLM."""

    instructions: str | None = None
    tools: tuple[dict[str, Any], ...] = ()
    """In the Responses API's shape. Of MCP servers' it only repeats what was asked for: those that the model
    is shown are functions."""
    tool_choice: Any = "auto"
    """In the Responses API's shape."""
    parallel_tool_calls: bool = True
    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    text_format: dict[str, Any] = field(default_factory=lambda: {"type": "text"})
    verbosity: str | None = None
    reasoning_effort: str | None = None
    top_logprobs: int | None = None
    """How many alternatives are given beside each token's own log probability; None for none of both."""
    extras: dict[str, Any] = field(default_factory=dict)
    """vLLM's own request fields, under its names."""

    def of_one_token(self) -> "Options":
        """For a prompt that nothing is to be said to: vLLM samples at least one token."""
        extras = {name: value for name, value in self.extras.items() if name != "min_tokens"}
        return replace(self, max_output_tokens=1, extras=extras)

    def of_at_most(self, tokens: int) -> "Options":
        """For an answer of no more `tokens`: what vLLM is to sample at least must not be more."""
        least = self.extras.get("min_tokens")
        extras = self.extras if least is None else {**self.extras, "min_tokens": min(least, tokens)}
        return replace(self, max_output_tokens=tokens, extras=extras)

    def offering(self, tools: tuple[dict[str, Any], ...], tool_choice: Any) -> "Options":
        """The same with other tools, and what is said of them."""
        return replace(self, tools=tools, tool_choice=tool_choice)

    @property
    def offered_tools(self) -> tuple[dict[str, Any], ...]:
        """The tools that this turn's model is shown: those that `tool_choice` allows, where it names some."""
        choice, tools = self.tool_choice, tuple(tool for tool in self.tools if tool["type"] != "mcp")
        if isinstance(choice, str) or choice["type"] != "allowed_tools":
            return tools
        allowed = {(tool["type"], tool.get("name")) for tool in choice["tools"]}
        return tuple(tool for tool in tools if (tool["type"], tool["name"]) in allowed)
