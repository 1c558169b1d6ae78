"""One turn of gpt-oss: as any other, but what is rendered, hashed and encoded are harmony messages."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from app.prefix import hashing
from app.prefix.wire import PrefixChatRequest
from app.vllm_plugin.continuation import Continuation
from app.vllm_plugin.harmony import HarmonyChanged, HarmonyEncoder, continue_messages
from app.vllm_plugin.harmony_seam import Rendered
from app.vllm_plugin.known import NOTHING, Known, TokenIds
from app.vllm_plugin.prompt_ids import PromptIds
from app.vllm_plugin.references import PrefixMiss
from app.vllm_plugin.seam import VLLM_VERSION, ChatCompletionRequest, Prompt
from app.vllm_plugin.store import Node
from app.vllm_plugin.template import describe
from app.vllm_plugin.turn import Turn


class HarmonyTurn(Turn):
    """See Turn. Its prompts have no text: where Turn counts characters, harmony messages are counted."""

    _tokenizer: HarmonyEncoder  # type: ignore[assignment]

    def __init__(self, request: PrefixChatRequest, *rest: Any) -> None:
        # What a model samples is a message's header too, in another form than that of the next prompt.
        super().__init__(msgspec.structs.replace(request, policy="canonical"), *rest)

    async def render_harmony(
        self, chat: ChatCompletionRequest, convert: Callable[[], Awaitable[Rendered]]
    ) -> dict[str, Any]:
        """Convert the whole conversation, encode what is not known. See harmony_seam.RenderHarmony."""
        started = time.perf_counter()
        self._begin(self._fingerprint_of(chat))
        chat.messages = self.messages()
        rendered = await convert()
        converted = time.perf_counter()
        self._render_ms = (converted - started) * 1e3
        if rendered.messages is None:
            return self._unproved(rendered.prompt)
        messages: Any = self._tokenizer.drop(rendered.messages)
        known = self.base.known() if self.base else NOTHING
        try:
            ids = await asyncio.to_thread(self._tokenize, messages, known, len(messages))
        except HarmonyChanged as exc:
            raise PrefixMiss("not_continuable", str(exc)) from exc
        self._tokenize_ms = (time.perf_counter() - converted) * 1e3
        return {**rendered.prompt, "prompt_token_ids": PromptIds(ids)}

    def messages(self) -> list[Any]:
        """See Turn.messages. As validated: a list of parts is one thing to vLLM, an iterator another."""
        return [
            ChatCompletionRequest(messages=[m]).messages[0] if isinstance(m.get("content"), list) else m
            for m in super().messages()
        ]

    def _continue(self, prompt: Any, known: Known) -> Continuation:
        return continue_messages(self._tokenizer, prompt, known)

    def _messages_end(self, node: Node, ids: TokenIds) -> int:
        return node.known().boundaries[-1].tokens

    def differs(self, stock: Prompt) -> bool:
        """See Turn.differs."""
        made = self.made
        return made is not None and made.ids.tolist() != stock["prompt_token_ids"]

    def _fingerprint_of(self, chat: ChatCompletionRequest) -> str:
        return hashing.fingerprint(
            (
                b"harmony",
                VLLM_VERSION.encode(),
                self._model.encode(),
                self._tokenizer.definition_hash,
                describe([tool.model_dump() for tool in chat.tools or ()]),
                describe(chat.reasoning_effort),
            )
        )
