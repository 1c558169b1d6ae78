"""The worker's side of the prefix protocol: everything behind the routes, for one vLLM API process."""

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from importlib.metadata import version
from typing import Any

import msgspec

from app.prefix.hashing import Ref
from app.prefix.wire import (
    PROTOCOL,
    RECEIPT_EVENT,
    SAMPLED_EVENT,
    PluginInfo,
    PrefixChatRequest,
    RenderAnswer,
    Worker,
)
from app.vllm_plugin import detokenizer, harmony_seam, seam
from app.vllm_plugin.canary import Canary
from app.vllm_plugin.harmony import HarmonyEncoder
from app.vllm_plugin.harmony_turn import HarmonyTurn
from app.vllm_plugin.references import PrefixMiss, resolve
from app.vllm_plugin.savings import ON
from app.vllm_plugin.seam import ChatCompletionRequest, ChatCompletionResponse, ErrorResponse
from app.vllm_plugin.store import Node, PrefixStore
from app.vllm_plugin.template import GenerationPrompts
from app.vllm_plugin.tokenization import BoundaryTokenizer
from app.vllm_plugin.turn import Turn

logger = logging.getLogger("vllm.marginalia")


class PrefixService:
    """Prefix store, tokenizer and vLLM's chat serving, joined. One per process, with its own epoch.

    `refusal` says why this server's prompts cannot be continued (None: they can); every turn is then
    answered with a typed miss, and belongs on vLLM's own routes.
    """

    def __init__(
        self,
        serving: Any,
        budget_bytes: int,
        *,
        savings: Mapping[str, str] | None = None,
        canary_share: float = 0.01,
    ) -> None:
        """`savings`: what this process's engine is spared, see savings.py; none where there is no engine."""
        self._serving = serving
        self.canary = Canary(canary_share)
        self._generation_prompts = GenerationPrompts()
        self._turns: Counter[str] = Counter()
        self._misses: Counter[str] = Counter()
        self.store = PrefixStore(budget_bytes)
        self.worker = Worker(id=secrets.token_hex(8), epoch=secrets.token_hex(8))
        self._tokenizer = self._load_tokenizer()
        self.refusal = self._tokenizer.refusal
        self._savings = dict(savings or {})
        if self._savings.get("detokenizer") == ON:
            self._savings["detokenizer"] = self.refusal or self._prime_detokenizer()
        if self.refusal:
            logger.warning(
                "Marginalia keeps no prefixes here, every turn is rendered in full: %s", self.refusal
            )

    def info(self) -> PluginInfo:
        return PluginInfo(
            protocol=PROTOCOL,
            version=version("marginalia"),
            vllm_version=seam.VLLM_VERSION,
            epoch=self.worker.epoch,
            model=self._serving.models.model_name(),
            max_model_len=self._serving.model_config.max_model_len,
            store_bytes=self.store.budget_bytes,
            boundary_tokens=0 if self.refusal else len(self._tokenizer.admissible),
            refusal=self.refusal,
            savings=self._savings,
        )

    def _prime_detokenizer(self) -> str:
        known = self._tokenizer
        if isinstance(known, HarmonyEncoder):
            # It decodes with the model's own tokenizer, whoever encoded.
            known = BoundaryTokenizer(self._serving.renderer.tokenizer)
        detokenizer.prime_with_tail(known.backend, known.admissible, known.added)
        return ON

    def stats(self) -> dict[str, Any]:
        """Turns by path, misses by code and the canary's checks since the start; the store as it is now."""
        return {
            "epoch": self.worker.epoch,
            "turns": dict(self._turns),
            "misses": dict(self._misses),
            "store": self.store.stats(),
            "canary": self.canary.stats(),
        }

    async def render(self, request: PrefixChatRequest, *, with_ids: bool) -> RenderAnswer | ErrorResponse:
        """The prompt that a turn would send to the engine. Raises PrefixMiss."""
        chat, turn = self._prepare(request)
        with turn.pinned():
            result = await self._continuing(turn, sent=False).render_chat_request(chat)
        if isinstance(result, ErrorResponse):
            return result
        ids = result[1][0]["prompt_token_ids"]
        return turn.render_answer(len(ids), ids if with_ids else None)

    async def chat(
        self, request: PrefixChatRequest, raw_request: Any
    ) -> tuple[AsyncGenerator[str, None] | dict[str, Any] | ErrorResponse, dict[str, str]]:
        """A stock chat completion with the receipt in it, and headers that say the path at once.

        Raises PrefixMiss before anything is sampled.
        """
        chat, turn = self._prepare(request)
        with turn.pinned():
            answer = await self._continuing(turn).create_chat_completion(chat, raw_request)
            if isinstance(answer, ErrorResponse):
                return answer, {}
            if isinstance(answer, ChatCompletionResponse):
                return {**answer.model_dump(), RECEIPT_EVENT: await self._receipt(turn)}, turn.headers()
        return self._stream(answer, turn), turn.headers()

    async def _stream(self, chunks: AsyncGenerator[str, None], turn: Turn) -> AsyncGenerator[str, None]:
        with turn.pinned():
            async for chunk in chunks:
                if chunk.startswith("data: [DONE]"):
                    break
                if sampled := turn.observed.tell():
                    yield f"event: {SAMPLED_EVENT}\ndata: {msgspec.json.encode(sampled).decode()}\n\n"
                yield chunk
            receipt = msgspec.json.encode(await self._receipt(turn)).decode()
        yield f"event: {RECEIPT_EVENT}\ndata: {receipt}\n\ndata: [DONE]\n\n"

    async def _receipt(self, turn: Turn) -> dict[str, Any]:
        receipt = await turn.receipt(self.worker)
        self._turns[receipt.path] += 1
        if receipt.reused_tokens:
            self.canary.maybe(turn.fingerprint, lambda: self._differs(turn))
        built: dict[str, Any] = msgspec.to_builtins(receipt)
        return built

    async def _differs(self, turn: Turn) -> bool:
        """Whether a turn that was answered has other token ids than vLLM's own full render."""
        again = turn.again()
        with again.pinned():
            ours = await self._continuing(again, sent=False).render_chat_request(again.chat)
            stock = await self._serving.render_chat_request(
                again.chat.model_copy(update={"messages": again.messages()})
            )
        if isinstance(ours, ErrorResponse) or isinstance(stock, ErrorResponse):
            return isinstance(ours, ErrorResponse) != isinstance(stock, ErrorResponse)
        return await asyncio.to_thread(again.differs, stock[1][0])

    def _prepare(self, request: PrefixChatRequest) -> tuple[ChatCompletionRequest, Turn]:
        try:
            base = self._resolve(request)
        except PrefixMiss as miss:
            self._misses[miss.code] += 1
            raise
        chat = ChatCompletionRequest(
            **{**request.chat, "messages": request.messages, "cache_salt": request.namespace}
        )
        kind = HarmonyTurn if isinstance(self._tokenizer, HarmonyEncoder) else Turn
        turn = kind(
            request,
            chat,
            base,
            self.store,
            self._tokenizer,
            self._generation_prompts,
            self.canary.quarantined,
        )
        return chat, turn

    def _resolve(self, request: PrefixChatRequest) -> Node | None:
        if not self.refusal and self._tokenizer.changed():
            # Tokens were added at run time: what is resident was tokenized without them, and so are the turns
            # that run; those go on with the store that they have.
            self._tokenizer = self._load_tokenizer()
            self.store = PrefixStore(self.store.budget_bytes)
            self.refusal = self._tokenizer.refusal
        if self.refusal:
            raise PrefixMiss("not_continuable", f"this server keeps no prefixes: {self.refusal}")
        return resolve(self.store, request)

    def _load_tokenizer(self) -> Any:
        if harmony_seam.uses_harmony(self._serving):
            return harmony_seam.harmony_encoder()
        return BoundaryTokenizer(self._serving.renderer.tokenizer)

    def _continuing(self, turn: Turn, *, sent: bool = True) -> Any:
        if isinstance(turn, HarmonyTurn):
            return harmony_seam.continuing_harmony_chat(
                self._serving, turn.render_harmony, turn.observed, said=turn.said
            )
        return seam.continuing_chat(self._serving, turn.render_ids, turn.observed, sent=sent, said=turn.said)

    def drop(self, ref: str) -> bool:
        """Forget a reference; False when it is unknown. Raises ValueError when it is no reference."""
        return self.store.drop(Ref(bytes.fromhex(ref)))
