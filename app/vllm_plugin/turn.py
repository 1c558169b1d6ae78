"""One turn inside the worker: re-prove what is known of its prompt, tokenize the rest, keep the result."""

import asyncio
import dataclasses
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import msgspec
import numpy as np

from app.prefix import hashing
from app.prefix.wire import (
    PATH_HEADER,
    REASON_HEADER,
    Common,
    PrefixChatRequest,
    Receipt,
    RenderAnswer,
    Worker,
)
from app.vllm_plugin.canary import same_tokens
from app.vllm_plugin.continuation import Continuation, continue_prompt
from app.vllm_plugin.known import NOTHING, Delta, Known, SampledSpan, TokenIds
from app.vllm_plugin.prompt_ids import PromptIds
from app.vllm_plugin.references import PrefixMiss, compared
from app.vllm_plugin.seam import VLLM_VERSION, ChatCompletionRequest, Observed, Prompt
from app.vllm_plugin.seed import pack, restore
from app.vllm_plugin.store import Node, PrefixStore
from app.vllm_plugin.template import GenerationPrompts, RenderText, describe
from app.vllm_plugin.tokenization import BoundaryTokenizer

_encode = msgspec.json.Encoder(enc_hook=list).encode
"""JSON of a validated message, its keys in their order: a template may print them.

`enc_hook`: pydantic leaves lists of content parts as iterators.
"""
_decode = msgspec.json.Decoder().decode


class Made(NamedTuple):
    """A prompt as a turn made it: its text and ids, and what they were made of."""

    text: str
    ids: TokenIds
    known: Known
    delta: Delta

    @property
    def sampled(self) -> tuple[SampledSpan, ...]:
        """Where the ids are as sampled."""
        return self.delta.whole(self.known, self.ids).sampled


class Turn:
    """What one request does with its prefix; becomes a receipt at its end."""

    def __init__(
        self,
        request: PrefixChatRequest,
        chat: ChatCompletionRequest,
        base: Node | None,
        store: PrefixStore,
        tokenizer: BoundaryTokenizer,
        generation_prompts: GenerationPrompts,
        quarantined: Collection[str] = (),
    ) -> None:
        self._request = request
        self.chat = chat
        self.said = request.said
        self.base = base
        # Only looked at, which it can be after it was evicted too: not pinned.
        self._compared = compared(store, request)
        self._store = store
        self._tokenizer = tokenizer
        self._generation_prompts = generation_prompts
        self._quarantined = quarantined
        self._model = chat.model or ""
        self._margin = tuple(_encode(m) for m in chat.messages)
        # Rendering changes messages in place: it gets copies, and the canonical bytes are what is kept.
        chat.messages = [_decode(m) for m in self._margin]
        self.observed = Observed()
        self._candidate: Node | None = None
        self._seed: Node | None = None
        self.made: Made | None = None
        self._render_ms = self._tokenize_ms = 0.0
        self._found = False
        """Whether `base` was not named but found by its content."""
        self._pins = ExitStack()
        self.path = "full"
        self.reason: str | None = None
        self.reused_tokens = self.tokens = self.sampled_tokens = 0
        self.fingerprint = self._hash = ""

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Keep the prompt that this one continues resident."""
        with ExitStack() as self._pins:
            self._pins.enter_context(self._store.pinned(self.base))
            yield

    def messages(self) -> list[Any]:
        """The whole conversation, as new objects."""
        return [_decode(m) for m in (*(self.base.all_messages() if self.base else ()), *self._margin)]

    async def render_ids(self, margin: list[Any], params: Any, render: RenderText) -> tuple[Any, Prompt]:
        """Render the whole conversation, tokenize what cannot be proved. See seam.RenderIds."""
        del margin  # As validated; the canonical bytes say the same.
        started = time.perf_counter()
        self._begin(self._fingerprint_of(params))
        conversation, prompt = await render(self.messages(), params)
        rendered = time.perf_counter()
        self._render_ms = (rendered - started) * 1e3
        if "prompt_token_ids" in prompt:
            return conversation, self._unproved(prompt)
        text = prompt["prompt"]
        suffix = await self._generation_prompts.of(self.fingerprint, params, render)
        known = self.base.known() if self.base else NOTHING
        ids = await asyncio.to_thread(
            self._tokenize, text, known, len(text) - len(suffix) * text.endswith(suffix)
        )
        self._tokenize_ms = (time.perf_counter() - rendered) * 1e3
        return conversation, {**prompt, "prompt_token_ids": PromptIds(ids)}

    def _begin(self, fingerprint: str) -> None:
        self.fingerprint = fingerprint
        if self.base is None:
            self._find_ancestor()
        if self._quarantined and self._is_quarantined():
            raise PrefixMiss("quarantined", "a continued prompt of this model and template was wrong before")

    def _is_quarantined(self) -> bool:
        # What was made under another fingerprint goes on here as well.
        path = self.base.path() if self.base else ()
        return any(made in self._quarantined for made in (self.fingerprint, *(n.fingerprint for n in path)))

    def _unproved(self, prompt: Prompt) -> Prompt:
        """A prompt whose ids vLLM made itself: nothing of it is known, and nothing kept."""
        if self.base is not None and not self._found:
            raise PrefixMiss("not_continuable", "this conversation has no rendered text to prove")
        self._account(np.asarray(prompt["prompt_token_ids"], dtype=np.int32))
        # Where it was to be a reseed as well: no ids were used.
        self.path, self.reason = "full", "not_continuable"
        return prompt

    def _find_ancestor(self) -> None:
        """A request with the whole history continues the longest part of it that is resident."""
        ref = hashing.root_ref(self._request.namespace, self.fingerprint)
        covered = 0
        for count, message in enumerate(self._margin, start=1):
            ref = hashing.extend_ref(ref, (message,))
            node = self._store.get(ref)
            if node is not None and not self._store.expired(node):
                self.base, covered = node, count
        self._found = covered > 0
        self._margin = self._margin[covered:]
        self._pins.enter_context(self._store.pinned(self.base))

    def _tokenize(self, text: str, known: Known, final_chars: int) -> TokenIds:
        restored = None
        # Seeds do not say under which fingerprint they were made.
        if self.base is None and self._request.reseed is not None and not self._quarantined:
            restored = restore(self._request.reseed.seeds, self._tokenizer.definition_hash)
            known = restored.known() if restored else NOTHING
        if self._request.policy == "canonical":
            known = known.canonical()
        made = self._continue(text, known)
        delta, kept = made.delta, made.delta.keep_tokens
        ids = np.concatenate((known.ids[:kept], delta.ids)) if kept else delta.ids
        if self.base is not None and not _is_hit(known, made):
            self.path, self.reason = "rewind", "history_rewritten"
        elif self.base is not None:
            self.path, self.reason = "hit", "found_by_content" if self._found else None
        self._account(ids, made)
        self._candidate = self._seed = node = self._node(len(text), final_chars, made)
        self.made = Made(text, ids, known, delta)
        if restored is not None:
            # Resident as a whole; as a seed a delta of those that Postgres has.
            self._seed = dataclasses.replace(node, parent=restored)
            self._candidate = dataclasses.replace(node, delta=delta.whole(known, ids))
        elif self._found:
            # What was found may be another conversation's, whose seeds come with that one only.
            self._seed = dataclasses.replace(node, parent=None, delta=delta.whole(known, ids))
        return ids

    def _continue(self, text: str, known: Known) -> Continuation:
        return continue_prompt(self._tokenizer, text, known)

    def _account(self, ids: TokenIds, made: Continuation | None = None) -> None:
        self.tokens = len(ids)
        if made is not None:
            self.sampled_tokens = made.sampled_tokens
            self.reused_tokens = made.reused_tokens
        self._hash = hashing.ids_hash(np.ascontiguousarray(ids, dtype="<i4").data)
        if self._request.reseed is not None:
            self.path, self.reason = "reseed", self._request.reseed.reason

    def _node(self, text_chars: int, final_chars: int, made: Continuation) -> Node:
        base = self.base
        if base is not None and base.fingerprint == self.fingerprint:
            ref = hashing.extend_ref(base.ref, self._margin)
        else:
            root = hashing.root_ref(self._request.namespace, self.fingerprint)
            ref = hashing.extend_ref(root, [*(base.all_messages() if base else ()), *self._margin])
        return Node(
            ref=ref,
            parent=base,
            namespace=self._request.namespace,
            model=self._model,
            fingerprint=self.fingerprint,
            messages=self._margin,
            delta=made.delta,
            hash=self._hash,
            final_chars=final_chars,
            text_chars=text_chars,
            text_hash=made.text_hash,
            samples=(),
            expires_at=0.0,
        )

    def _fingerprint_of(self, params: Any) -> str:
        tokenizer = self._tokenizer
        return hashing.fingerprint(
            (
                VLLM_VERSION.encode(),
                self._model.encode(),
                tokenizer.definition_hash,
                self._request.policy.encode(),
                describe(params.chat_template or tokenizer.chat_template),
                describe(params.chat_template_content_format),
                describe(params.chat_template_kwargs),
            )
        )

    def again(self) -> "Turn":
        """The same turn, to be made once more."""
        chat = self.chat.model_copy(update={"messages": [_decode(m) for m in self._margin]})
        turn = type(self)(
            self._request, chat, self.base, self._store, self._tokenizer, self._generation_prompts
        )
        turn._found = self._found
        return turn

    def differs(self, stock: Prompt) -> bool:
        """Whether vLLM's own prompt for this conversation is another one, sampled ids aside."""
        made = self.made
        if made is None or self.chat.truncate_prompt_tokens is not None:
            return False  # vLLM made the ids itself; or ours are of the prompt before it was cut.
        full = stock["prompt_token_ids"]
        return stock["prompt"] != made.text or not same_tokens(
            self._tokenizer, made.text, made.ids, made.sampled, full
        )

    def headers(self) -> dict[str, str]:
        """The path, known before the first token is."""
        headers = {PATH_HEADER: self.path}
        return {**headers, REASON_HEADER: self.reason} if self.reason else headers

    def render_answer(self, tokens: int, ids: list[int] | None) -> RenderAnswer:
        """tokens: of the prompt as the engine would get it, those of its images included."""
        return RenderAnswer(
            tokens=tokens, hash=self._hash, path=self.path, reused_tokens=self.reused_tokens, ids=ids
        )

    async def receipt(self, worker: Worker) -> Receipt:
        """Keep the prompt, if the turn came to its end and asked for it, and say what was done."""
        kept = self._keep()
        commit = self._request.commit
        return Receipt(
            ref=kept.ref.hex() if kept else None,
            hash=self._hash,
            tokens=self.tokens,
            fingerprint=self.fingerprint,
            proof=list(kept.delta.boundaries) if kept else [],
            path=self.path,
            reason=self.reason,
            reused_tokens=self.reused_tokens,
            tokenized_tokens=self.tokens - self.reused_tokens,
            cached_tokens=self.observed.cached_tokens,
            render_ms=round(self._render_ms, 3),
            tokenize_ms=round(self._tokenize_ms, 3),
            worker=worker,
            sampled_reused=self.sampled_tokens,
            seed=await self._packed(kept) if kept and commit and commit.seed else None,
            common=self._common(self._compared, self.made) if self._compared and self.made else None,
        )

    def _common(self, other: Node, made: Made) -> Common:
        theirs = other.all_ids()
        ours = made.ids[: len(theirs)]
        differ = theirs[: len(ours)] != ours
        tokens = int(differ.argmax()) if differ.any() else len(ours)
        return Common(tokens=tokens, reusable=self._messages_end(other, theirs))

    def _messages_end(self, node: Node, ids: TokenIds) -> int:
        """How many of the node's ids come before its generation prompt."""
        return len(ids) - self._tokenizer.ids_at_end(ids, node.text_chars - node.final_chars)

    async def _packed(self, kept: Node) -> bytes | None:
        parent = self._seed and self._seed.parent
        if self._seed is None or (parent and parent.ref == kept.ref):
            return None  # Of a turn that adds nothing: its parent's says it all.
        seed = dataclasses.replace(self._seed, ref=kept.ref, samples=kept.samples)
        return await asyncio.to_thread(pack, seed, self._tokenizer.definition_hash)

    def _keep(self) -> Node | None:
        commit, node = self._request.commit, self._candidate
        if commit is None or node is None or not self.observed.finished:
            return None
        if self._request.policy == "sampled" and self.observed.generations == 1:
            node.samples = tuple(np.array(ids, np.int32) for ids in self.observed.samples.values() if ids)
        known = self._store.get(node.ref)
        if known is not None and known.hash != node.hash:
            # The same messages as other ids: a template that prints the date, or what a model sampled.
            node.ref = hashing.extend_ref(node.ref, (node.hash.encode(),))
        return node if self._store.put(node, commit.ttl_s) else None


def _is_hit(known: Known, made: Continuation) -> bool:
    """Whether all of the known prompt but its generation prompt still stands."""
    final = [b.chars for b in known.boundaries if b.chars <= known.final_chars]
    return not final or made.delta.keep_chars >= final[-1]
