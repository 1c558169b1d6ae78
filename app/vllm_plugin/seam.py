"""The only place that knows how vLLM is built inside: its chat serving, with the prompt made elsewhere.

vLLM's own `OpenAIServingChat` goes on doing the sampling parameters, reasoning and tool parsing, structured
output and streaming. Per request it is copied (shallowly) and two of its parts are replaced: the renderer's
`render_messages_async`, which gives the prompt as text and here as token ids too, and the engine client's
`generate`, whose outputs are observed on their way. Seen in vLLM 0.26.0 to 0.32.0:
entrypoints/openai/chat_completion/serving.py and renderers/{online_renderer,base}.py.
"""

import copy
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import vllm

# From where chat serving itself has them: their own modules move from version to version.
from vllm.entrypoints.openai.chat_completion.serving import (
    ChatCompletionRequest,
    ChatCompletionResponse,
    ErrorResponse,
)

from app.vllm_plugin.resumed import can_be_resumed, resumed

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
    samples: dict[int, list[int]] = field(default_factory=dict)
    """Ids that the engine sampled, by choice, a sampled end token and what a stop string cut off included."""
    generations: int = 0
    """Beam search starts one per token and beam."""
    untold: list[int] = field(default_factory=list)
    """Ids that an answer which can be resumed has since `tell`, less a sampled end token."""

    def tell(self) -> list[int]:
        told, self.untold = self.untold, []
        return told


class _ObservedEngine:
    """The engine client, watched. said: see PrefixChatRequest."""

    def __init__(self, client: Any, tokenizer: Any, observed: Observed, said: Sequence[int] | None) -> None:
        self._client = client
        self._tokenizer = tokenizer
        self._observed = observed
        self._said = said

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    async def generate(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        self._observed.generations += 1
        outputs, resumable = self._client.generate, False
        if self._said is not None and can_be_resumed(self._client.vllm_config, self._said, *args[:2]):
            resumable = True
            if self._said:
                outputs = partial(resumed, outputs, self._tokenizer, self._said)
        async for output in outputs(*args, **kwargs):
            # Chat serving asks for deltas or for one final output, never for the same ids twice.
            for choice in output.outputs:
                self._observed.samples.setdefault(choice.index, []).extend(choice.token_ids)
                if resumable:
                    ended = choice.finish_reason == "stop"
                    self._observed.untold += choice.token_ids[: -1 if ended else None]
            if output.num_cached_tokens is not None:
                self._observed.cached_tokens = output.num_cached_tokens
            if output.finished:
                self._observed.finished = all(
                    choice.finish_reason in ("stop", "length") for choice in output.outputs
                )
            yield output


def continuing_chat(
    serving: Any,
    render_ids: RenderIds,
    observed: Observed,
    *,
    sent: bool = True,
    said: Sequence[int] | None = None,
) -> Any:
    """A copy of vLLM's chat serving for one request, whose prompt `render_ids` makes.

    said: see PrefixChatRequest. sent: whether the engine gets the prompt. An image that vLLM believes to be
    there is not sent again.
    """
    stock = serving.online_renderer.renderer
    renderer = copy.copy(stock)

    async def render_chat_async(
        conversations: Sequence[list[Any]], chat_params: Any, tok_params: Any = None, **rest: Any
    ) -> Any:
        # The stock method on the copy, which finds its prompt tokenized: the limits on its length, the cache
        # salt and what else a version adds are its own.
        limits = tok_params or stock.default_chat_tok_params
        if not sent and "skip_mm_cache" in rest:
            rest["skip_mm_cache"] = True

        async def render_text(messages: list[Any], params: Any) -> tuple[Any, Prompt]:
            conversation, prompt = await stock.render_messages_async(messages, params)
            text_only = "prompt" in prompt and "multi_modal_data" not in prompt
            if text_only and not (limits.add_special_tokens or limits.return_token_offsets):
                return conversation, limits.apply_pre_tokenization(stock.tokenizer, prompt)
            # No text, or more is wanted than the ids of the text alone: vLLM's own tokenization.
            (tokenized,) = await stock.tokenize_prompts_async([prompt], limits)
            return conversation, tokenized

        async def render_messages_async(messages: list[Any], params: Any) -> tuple[Any, Prompt]:
            return await render_ids(messages, params, render_text)

        renderer.render_messages_async = render_messages_async
        return await type(stock).render_chat_async(renderer, conversations, chat_params, tok_params, **rest)

    renderer.render_chat_async = render_chat_async
    online_renderer = copy.copy(serving.online_renderer)
    online_renderer.renderer = renderer
    chat = copy.copy(serving)
    chat.online_renderer = online_renderer
    chat.engine_client = _ObservedEngine(serving.engine_client, stock.tokenizer, observed, said)
    return chat


async def check(serving: Any) -> None:
    """Raises AttributeError or TypeError where chat serving does not take its prompt from `continuing_chat`.

    Another error, such as a template's that wants another conversation, says nothing of that.
    """
    if serving.online_renderer.use_harmony:
        return  # See harmony_seam.

    async def mark(messages: list[Any], params: Any, render: Any) -> tuple[Any, Prompt]:
        conversation, prompt = await render(messages, params)
        return conversation, {**prompt, "prompt_token_ids": [_MARK]}

    request = ChatCompletionRequest(messages=[{"role": "user", "content": "x"}])
    try:
        rendered = await continuing_chat(serving, mark, Observed()).render_chat_request(request)
    except (AttributeError, TypeError):
        raise
    except Exception:
        return
    if not isinstance(rendered, ErrorResponse) and rendered[1][0]["prompt_token_ids"] != [_MARK]:
        raise AttributeError("chat serving does not render its prompt by render_messages_async")


_MARK = 0
"""A token id that no conversation renders to alone."""
