"""The plugin inside vLLM without an engine: vLLM's chat serving, renderer and tokenizer are the real ones.

Only the engine is ours: it keeps what it was given as a prompt and answers "ok". So a turn here takes the
same way as in a server, from `PrefixService.chat` to the prompt that the engine gets. No weights are read.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.models.protocol import BaseModelPath
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.renderers.registry import renderer_from_config

from app.prefix.wire import PrefixChatRequest, Receipt
from app.vllm_plugin.known import SampledSpan
from app.vllm_plugin.references import PrefixMiss
from app.vllm_plugin.seam import ChatCompletionRequest, ErrorResponse
from app.vllm_plugin.service import PrefixService
from app.vllm_plugin.store import PrefixStore
from app.vllm_plugin.tokenization import BoundaryTokenizer
from app.vllm_plugin.turn import Turn

MODEL = "offline"
CACHED_TOKENS = 7
AMPLE_BYTES = 1 << 28


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the engine would get, without the time at which it got it."""

    ids: tuple[int, ...]
    text: str
    rest: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Refused:
    """vLLM's own refusal of a conversation: of the template, of a length, of an option."""

    kind: str
    message: str


class _Engine:
    """As much of vLLM's EngineClient as chat serving asks for."""

    errored = False
    input_processor = None

    def __init__(self, config: Any) -> None:
        self.vllm_config = config
        self.model_config = config.model_config
        self.renderer = renderer_from_config(config)
        self.given: list[Any] = []
        self.answer: list[int] = [1]

    def check_admission(self, requests: int) -> None:
        pass

    async def generate(
        self, prompt: Any, params: Any, request_id: str, **_: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        self.given.append(prompt)
        answer = CompletionOutput(0, "ok", self.answer, None, None, finish_reason="stop")
        yield RequestOutput(
            request_id,
            None,
            prompt["prompt_token_ids"],
            None,
            [answer],
            True,
            num_cached_tokens=CACHED_TOKENS,
        )


class _Watched(PrefixService):
    """Keeps the last turn at hand."""

    last: Turn

    def _prepare(self, request: PrefixChatRequest) -> tuple[ChatCompletionRequest, Turn]:
        chat, self.last = super()._prepare(request)
        return chat, self.last


class Offline:
    """A model's vLLM server without its engine, with the plugin in it.

    directory: with tokenizer.json and config.json. chat_template: in place of the tokenizer's own. Whatever
    vLLM raises about the files is raised here.
    """

    def __init__(self, directory: Path, chat_template: str | None = None) -> None:
        config = AsyncEngineArgs(
            model=str(directory), load_format="dummy", enforce_eager=True, dtype="bfloat16"
        ).create_engine_config()
        self._engine = _Engine(config)
        options: Any = {
            "request_logger": None,
            "chat_template": chat_template,
            "chat_template_content_format": "auto",
        }
        self._serving = OpenAIServingChat(
            self._engine,
            OpenAIServingModels(self._engine, [BaseModelPath(MODEL, str(directory))]),
            "assistant",
            online_renderer=OnlineRenderer(config.model_config, self._engine.renderer, **options),
            **options,
        )
        self.service = _Watched(self._serving, AMPLE_BYTES, canary_share=0.0)
        self.runner = asyncio.Runner()

    def close(self) -> None:
        self._engine.renderer.shutdown()
        self.runner.close()

    def use_template(self, chat_template: str | None) -> None:
        """Another template on the same tokenizer, which is what takes long to load."""
        self._serving.chat_template = self._serving.online_renderer.chat_template = chat_template

    def empty_store(self, budget_bytes: int = AMPLE_BYTES) -> PrefixStore:
        """A new store for the plugin: the next conversations find nothing."""
        self.service.store = PrefixStore(budget_bytes)
        return self.service.store

    def answer_with(self, ids: list[int]) -> None:
        """What the engine samples from now on."""
        self._engine.answer = ids

    def sampled(self) -> Sequence[SampledSpan]:
        """Where the last turn's prompt has ids as sampled."""
        made = self.service.last.made
        return made.sampled if made else ()

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self._engine.renderer.tokenizer.decode(ids, skip_special_tokens=False)
        return text

    @property
    def tokenizer(self) -> Any:
        """vLLM's own, as loaded."""
        return self._engine.renderer.tokenizer

    @property
    def boundary_tokenizer(self) -> BoundaryTokenizer | None:
        """The plugin's; None for gpt-oss, whose messages vLLM has encoded by the harmony library."""
        known = self.service._tokenizer
        return known if isinstance(known, BoundaryTokenizer) else None

    def encode(self, text: str) -> list[int]:
        """By vLLM's own tokenizer."""
        ids: list[int] = self._engine.renderer.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    async def stock(
        self, chat: dict[str, Any], messages: list[dict[str, Any]], salt: str
    ) -> Prompt | Refused:
        """The oracle: what vLLM itself makes of the whole conversation."""
        try:
            request = ChatCompletionRequest(**chat, messages=messages, cache_salt=salt)
            rendered = await self._serving.render_chat_request(request)
        except Exception as exc:
            return Refused(type(exc).__name__, str(exc))
        if isinstance(rendered, ErrorResponse):
            return Refused("ErrorResponse", rendered.error.message)
        return _prompt(rendered[1][0])

    async def turn(self, request: PrefixChatRequest) -> tuple[Prompt, Receipt] | Refused:
        """What the plugin gives the engine, and its receipt. Raises PrefixMiss."""
        self._engine.given.clear()
        # As it comes over the wire: nothing of it is shared with the caller.
        body = msgspec.json.decode(msgspec.json.encode(request), type=PrefixChatRequest)
        try:
            answer, _ = await self.service.chat(body, None)
        except PrefixMiss:
            raise
        except Exception as exc:
            return Refused(type(exc).__name__, str(exc))
        if isinstance(answer, ErrorResponse):
            return Refused("ErrorResponse", answer.error.message)
        assert isinstance(answer, dict)
        (given,) = self._engine.given
        return _prompt(given), msgspec.convert(answer["prefix"], Receipt)


def _prompt(engine_input: dict[str, Any]) -> Prompt:
    rest = {k: v for k, v in engine_input.items() if k not in ("arrival_time", "prompt_token_ids", "prompt")}
    return Prompt(tuple(engine_input["prompt_token_ids"]), engine_input.get("prompt", ""), rest)
