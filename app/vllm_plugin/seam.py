"""The only place that knows how vLLM is built inside: its chat serving, with the prompt made elsewhere.

vLLM's own `OpenAIServingChat` goes on doing the sampling parameters, reasoning and tool parsing, structured
output and streaming. Per request it is copied (shallowly) and two of its parts are replaced: the renderer's
`render_chat_async`, which turns messages into token ids, and the engine client's `generate`, whose outputs
are observed on their way. Seen in vLLM 0.32.0: entrypoints/openai/chat_completion/serving.py and
renderers/{online_renderer,base}.py.
"""

import copy
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import vllm
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest, ChatCompletionResponse
from vllm.entrypoints.serve.engine.protocol import ErrorResponse

Prompt = dict[str, Any]
RenderIds = Callable[
    [list[Any], Any, Callable[..., Awaitable[tuple[Any, Prompt]]]], Awaitable[tuple[Any, Prompt]]
]
"""(messages of the request, chat_params, stock render) -> (conversation, prompt with its token ids)."""

VLLM_VERSION: str = vllm.__version__

__all__ = ["ChatCompletionRequest", "ChatCompletionResponse", "ErrorResponse", "Observed", "continuing_chat"]


@dataclass(slots=True)
class Observed:
    """What the engine said of a request."""

    finished: bool = False
    """The generation came to its own end: neither an error nor an abort."""
    cached_tokens: int | None = None


class _ObservedEngine:
    """The engine client, watched."""

    def __init__(self, client: Any, observed: Observed) -> None:
        self._client = client
        self._observed = observed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def generate(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        async for output in self._client.generate(*args, **kwargs):
            if output.num_cached_tokens is not None:
                self._observed.cached_tokens = output.num_cached_tokens
            if output.finished:
                self._observed.finished = all(
                    choice.finish_reason in ("stop", "length") for choice in output.outputs
                )
            yield output


def continuing_chat(serving: Any, render_ids: RenderIds, observed: Observed) -> Any:
    """A copy of vLLM's chat serving for one request, whose prompt `render_ids` makes."""
    stock = serving.online_renderer.renderer

    async def render_chat_async(
        conversations: Sequence[list[Any]],
        chat_params: Any,
        tok_params: Any = None,
        *,
        prompt_extras: dict[str, Any] | None = None,
        skip_mm_cache: bool = False,
    ) -> tuple[list[Any], list[Any]]:
        # The stock method, with the tokenization of its text replaced.
        arrival_time = time.time()
        (messages,) = conversations
        tok_params = tok_params or stock.default_chat_tok_params

        async def render_text(all_messages: list[Any], params: Any) -> tuple[Any, Prompt]:
            conversation, prompt = await stock.render_messages_async(all_messages, params)
            text_only = "prompt" in prompt and "multi_modal_data" not in prompt
            if text_only and not (tok_params.add_special_tokens or tok_params.return_token_offsets):
                return conversation, tok_params.apply_pre_tokenization(stock.tokenizer, prompt)
            # No text, or more is wanted than the ids of the text alone: vLLM's own tokenization.
            (tokenized,) = await stock.tokenize_prompts_async([prompt], tok_params)
            return conversation, tokenized

        conversation, prompt = await render_ids(messages, chat_params, render_text)
        prompt = tok_params.apply_post_tokenization(stock.tokenizer, prompt)
        extras = {**(prompt_extras or {}), "media_io_kwargs": chat_params.media_io_kwargs or {}}
        stock._apply_prompt_extras([prompt], extras)
        engine_input = await stock.process_for_engine_async(
            prompt, arrival_time, skip_mm_cache=skip_mm_cache, tok_params=tok_params
        )
        return [conversation], [engine_input]

    renderer = copy.copy(stock)
    renderer.render_chat_async = render_chat_async
    online_renderer = copy.copy(serving.online_renderer)
    online_renderer.renderer = renderer
    chat = copy.copy(serving)
    chat.online_renderer = online_renderer
    chat.engine_client = _ObservedEngine(serving.engine_client, observed)
    return chat


def refusal(serving: Any) -> str | None:
    """Why this server's prompts cannot be made outside its renderer, if so."""
    if serving.online_renderer.use_harmony:
        return "harmony_renderer"
    return None
