"""What seam.py is, for gpt-oss: the only place that knows how vLLM makes prompts with the harmony library.

vLLM's `_make_request_with_harmony` turns chat messages into harmony messages and has them rendered. Here it
runs as it is, with a rendering that only takes the messages; the ids are made outside. Seen in vLLM 0.32.0:
renderers/online_renderer.py and entrypoints/openai/parser/harmony_utils.py.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from types import FunctionType, MethodType
from typing import Any

from app.vllm_plugin.harmony import HarmonyEncoder
from app.vllm_plugin.seam import (
    VLLM_VERSION,
    ChatCompletionRequest,
    ErrorResponse,
    Observed,
    continuing_chat,
)
from app.vllm_plugin.unfit import UntestedVersion

TESTED_VLLM = "0.32."


@dataclass(frozen=True, slots=True)
class Rendered:
    """What vLLM made of a chat request: harmony messages, or else the prompt itself (`messages` is None: the
    client gave the ids)."""

    messages: list[Any] | None
    prompt: dict[str, Any]


RenderHarmony = Callable[[Any, Callable[[], Awaitable[Rendered]]], Awaitable[dict[str, Any]]]
"""(chat request, stock conversion of its messages) -> prompt with its token ids."""


class _Error(Exception):
    """vLLM answers the request with an error; carried past whoever waits for its messages."""

    def __init__(self, response: ErrorResponse) -> None:
        super().__init__(response.error.message)
        self.response = response


def uses_harmony(serving: Any) -> bool:
    return bool(serving.online_renderer.use_harmony)


def harmony_encoder() -> HarmonyEncoder:
    """vLLM's rendering of harmony messages. Raises UntestedVersion."""
    if not VLLM_VERSION.startswith(TESTED_VLLM):
        raise UntestedVersion(f"gpt-oss was not tested on vLLM {VLLM_VERSION}")
    from vllm.entrypoints.openai.parser import harmony_utils

    return HarmonyEncoder(
        harmony_utils.render_for_completion,
        harmony_utils.auto_drop_analysis_messages,
        _sample(harmony_utils),
        VLLM_VERSION,
    )


def continuing_harmony_chat(
    serving: Any, render_harmony: RenderHarmony, observed: Observed, *, said: Sequence[int] | None = None
) -> Any:
    """A copy of vLLM's chat serving for one request, whose prompt `render_harmony` makes.

    said: see PrefixChatRequest.
    """
    chat = continuing_chat(serving, _no_text, observed, said=said)
    renderer = chat.online_renderer
    taken: list[list[Any]] = []

    def take(messages: list[Any]) -> list[int]:
        taken.append(messages)
        return []

    stock = type(renderer)._make_request_with_harmony
    renderer._make_request_with_harmony = MethodType(_with(stock, render_for_completion=take), renderer)

    async def render_chat(request: Any, **rest: Any) -> Any:
        conversation: Any = None

        async def convert() -> Rendered:
            nonlocal conversation
            result = await type(renderer).render_chat(renderer, request, **rest)
            if isinstance(result, ErrorResponse):
                raise _Error(result)
            conversation, (prompt,) = result
            return Rendered(taken[-1] if taken else None, prompt)

        try:
            prompt = await render_harmony(request, convert)
        except _Error as error:
            return error.response
        return conversation, [prompt]

    renderer.render_chat = render_chat
    return chat


async def check(serving: Any) -> None:
    """See seam.check."""
    if not uses_harmony(serving):
        return
    taken: list[Any] = []

    async def mark(request: Any, convert: Callable[[], Awaitable[Rendered]]) -> dict[str, Any]:
        rendered = await convert()
        taken.extend(rendered.messages or ())
        return rendered.prompt

    request = ChatCompletionRequest(messages=[{"role": "user", "content": "x"}])
    rendered = await continuing_harmony_chat(serving, mark, Observed()).render_chat_request(request)
    if not isinstance(rendered, ErrorResponse) and not taken:
        raise AttributeError("chat serving does not render its messages by render_for_completion")


async def _no_text(*_: Any) -> Any:
    raise RuntimeError("vLLM renders a text for a model that it said it has none for")


def _with(function: Any, **names: Any) -> FunctionType:
    """The same function, which finds these under their global names."""
    changed = FunctionType(
        function.__code__,
        {**function.__globals__, **names},
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    changed.__kwdefaults__ = function.__kwdefaults__
    return changed


def _sample(utils: Any) -> list[Any]:
    """A conversation with every kind of message that vLLM makes from chat messages."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionToolsParam

    tool = ChatCompletionToolsParam(
        function={"name": "f", "description": "<|call|>", "parameters": {"type": "object", "properties": {}}}
    )
    call = {"id": "1", "function": {"name": "f", "arguments": '{"a": "<|end|>"}'}}
    reasoned = {"role": "assistant", "reasoning": "<|channel|>so"}
    return [
        utils.get_system_message(start_date="2025-06-28", with_custom_tools=True),
        utils.get_developer_message(instructions="Be <|start|> brief.", tools=[tool]),
        *utils.parse_chat_inputs_to_harmony_messages(
            [
                {"role": "user", "content": "naïve <|start|>assistant\n\n"},
                {**reasoned, "content": " \nFine<|return|>"},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": ""}]},
                {**reasoned, "content": "say", "tool_calls": [call, call]},
                {"role": "tool", "tool_call_id": "1", "content": "\n<|message|>12"},
                {"role": "developer", "content": "x"},
                {"role": "user", "content": ""},
            ]
        ),
    ]
