"""One turn inside the worker: resolve the reference, re-prove it, tokenize the rest, keep the result."""

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import numpy as np

from app.prefix import hashing
from app.prefix.wire import (
    PATH_HEADER,
    REASON_HEADER,
    Boundary,
    PrefixChatRequest,
    Receipt,
    RenderAnswer,
    Worker,
)
from app.vllm_plugin.seam import VLLM_VERSION, ChatCompletionRequest, Observed, Prompt
from app.vllm_plugin.store import Node, PrefixStore
from app.vllm_plugin.tokenization import BoundaryTokenizer, TokenIds, Tokenized

RenderText = Callable[..., Awaitable[tuple[Any, Prompt]]]

_encode = msgspec.json.Encoder(enc_hook=list).encode
"""JSON of a validated message, its keys in their order: a template may print them.

`enc_hook`: pydantic leaves lists of content parts as iterators.
"""
_decode = msgspec.json.Decoder().decode


_FINGERPRINTS = 1024
"""How many generation prompts are remembered: one per set of tools and template arguments."""


class PrefixMiss(Exception):
    """The reference cannot be used; raised before anything is sampled. `code` is one of wire.MISS_CODES."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def resolve(store: PrefixStore, request: PrefixChatRequest) -> Node | None:
    """The node that the request's reference names; None when it names none. Raises PrefixMiss."""
    reference = request.prefix
    if reference is None:
        return None
    try:
        node = store.get(hashing.Ref(bytes.fromhex(reference.ref)))
    except ValueError:
        node = None
    if node is None:
        raise PrefixMiss("prefix_miss", "no such prefix is resident in this process")
    if node.namespace != request.namespace:
        raise PrefixMiss("namespace_mismatch", "the prefix belongs to another namespace")
    if store.expired(node):
        raise PrefixMiss("prefix_expired", "the prefix's time to live has passed")
    if node.fingerprint != reference.fingerprint or node.model != request.chat.get("model", node.model):
        raise PrefixMiss("fingerprint_mismatch", "model, tokenizer or template differ from the prefix's")
    if node.hash != reference.hash or node.tokens != reference.tokens:
        raise PrefixMiss("hash_mismatch", "the prefix's tokens differ from those that the reference names")
    return node


class Turn:
    """What one request does with its prefix; becomes a receipt at its end."""

    def __init__(
        self,
        request: PrefixChatRequest,
        chat: ChatCompletionRequest,
        base: Node | None,
        store: PrefixStore,
        tokenizer: BoundaryTokenizer,
        generation_prompts: dict[str, str],
    ) -> None:
        self._request = request
        self.base = base
        self._store = store
        self._tokenizer = tokenizer
        self._generation_prompts = generation_prompts
        self._model = chat.model or ""
        self._margin = tuple(_encode(m) for m in chat.messages)
        # Rendering changes messages in place: it gets copies, and the canonical bytes are what is kept.
        chat.messages = [_decode(m) for m in self._margin]
        self.observed = Observed()
        self._candidate: Node | None = None
        self._render_ms = self._tokenize_ms = 0.0
        self._found = False
        """Whether `base` was not named but found by its content."""
        self.path = "full"
        self.reason: str | None = None
        self.reused_tokens = self.tokens = 0
        self._fingerprint = self._hash = ""

    async def render_ids(self, margin: list[Any], params: Any, render: RenderText) -> tuple[Any, Prompt]:
        """Render the whole conversation, tokenize what cannot be proved. See seam.RenderIds."""
        del margin  # As validated; the canonical bytes say the same.
        started = time.perf_counter()
        self._fingerprint = self._fingerprint_of(params)
        if self.base is None:
            self._find_ancestor()
        messages = [*(self.base.all_messages() if self.base else ()), *self._margin]
        conversation, prompt = await render([_decode(m) for m in messages], params)
        rendered = time.perf_counter()
        self._render_ms = (rendered - started) * 1e3
        if "prompt_token_ids" in prompt:
            if self.base is not None and not self._found:
                raise PrefixMiss("not_continuable", "this conversation has no rendered text to prove")
            ids = np.asarray(prompt["prompt_token_ids"], dtype=np.int32)
            self.reason = "not_continuable"
            self._account(ids, reused=0)
            return conversation, prompt
        text = prompt["prompt"]
        suffix = await self._generation_prompt(params, render)
        ids = await asyncio.to_thread(self._tokenize, text, len(text) - len(suffix) * text.endswith(suffix))
        self._tokenize_ms = (time.perf_counter() - rendered) * 1e3
        return conversation, {**prompt, "prompt_token_ids": ids.tolist()}

    def _find_ancestor(self) -> None:
        """A request with the whole history continues the longest part of it that is resident."""
        ref = hashing.root_ref(self._request.namespace, self._fingerprint)
        covered = 0
        for count, message in enumerate(self._margin, start=1):
            ref = hashing.extend_ref(ref, (message,))
            node = self._store.get(ref)
            if node is not None and not self._store.expired(node):
                self.base, covered = node, count
        self._found = covered > 0
        self._margin = self._margin[covered:]

    def _tokenize(self, text: str, final_chars: int) -> TokenIds:
        base = self.base
        known = base.all_boundaries() if base else []
        known_ids = base.all_ids() if base else np.empty(0, np.int32)
        result = self._tokenizer.tokenize(text, known, known_ids)
        kept = result.kept
        reused = kept.tokens if kept else 0
        ids = np.concatenate((known_ids[:reused], result.ids)) if reused else result.ids
        if base is not None and not _is_hit(base, known, kept):
            self.path, self.reason = "rewind", "history_rewritten"
        elif base is not None:
            self.path, self.reason = "hit", "found_by_content" if self._found else None
        self._account(ids, reused)
        self._candidate = self._node(known, result, final_chars)
        return ids

    def _account(self, ids: TokenIds, reused: int) -> None:
        self.tokens, self.reused_tokens = len(ids), reused
        self._hash = hashing.ids_hash(np.ascontiguousarray(ids, dtype="<i4").data)
        if self._request.reseed is not None:
            self.path, self.reason = "reseed", self._request.reseed.reason

    def _node(self, known: list[Boundary], result: Tokenized, final_chars: int) -> Node:
        base = self.base
        if base is not None and base.fingerprint == self._fingerprint:
            ref = hashing.extend_ref(base.ref, self._margin)
        else:
            root = hashing.root_ref(self._request.namespace, self._fingerprint)
            ref = hashing.extend_ref(root, [*(base.all_messages() if base else ()), *self._margin])
        kept = result.kept
        return Node(
            ref=ref,
            parent=base,
            namespace=self._request.namespace,
            model=self._model,
            fingerprint=self._fingerprint,
            messages=self._margin,
            keep_boundaries=known.index(kept) + 1 if kept else 0,
            keep_tokens=kept.tokens if kept else 0,
            ids=result.ids,
            boundaries=result.boundaries,
            hash=self._hash,
            final_chars=final_chars,
            expires_at=0.0,
        )

    async def _generation_prompt(self, params: Any, render: RenderText) -> str:
        """What the template adds to ask for an answer: only names paths. Rendered once per fingerprint."""
        known = self._generation_prompts.get(self._fingerprint)
        if known is None:
            known = await generation_prompt(params, render)
            if len(self._generation_prompts) >= _FINGERPRINTS:
                self._generation_prompts.clear()
            self._generation_prompts[self._fingerprint] = known
        return known

    def _fingerprint_of(self, params: Any) -> str:
        tokenizer = self._tokenizer
        return hashing.fingerprint(
            (
                VLLM_VERSION.encode(),
                self._model.encode(),
                tokenizer.definition_hash,
                _describe(params.chat_template or tokenizer.chat_template),
                _describe(params.chat_template_content_format),
                _describe(params.chat_template_kwargs),
            )
        )

    def headers(self) -> dict[str, str]:
        """The path, known before the first token is."""
        headers = {PATH_HEADER: self.path}
        return {**headers, REASON_HEADER: self.reason} if self.reason else headers

    def render_answer(self, ids: list[int] | None) -> RenderAnswer:
        return RenderAnswer(
            tokens=self.tokens, hash=self._hash, path=self.path, reused_tokens=self.reused_tokens, ids=ids
        )

    def receipt(self, worker: Worker) -> Receipt:
        """Keep the prompt, if the turn came to its end and asked for it, and say what was done."""
        kept = self._keep()
        return Receipt(
            ref=kept.ref.hex() if kept else None,
            hash=self._hash,
            tokens=self.tokens,
            fingerprint=self._fingerprint,
            proof=list(kept.boundaries) if kept else [],
            path=self.path,
            reason=self.reason,
            reused_tokens=self.reused_tokens,
            tokenized_tokens=self.tokens - self.reused_tokens,
            cached_tokens=self.observed.cached_tokens,
            render_ms=round(self._render_ms, 3),
            tokenize_ms=round(self._tokenize_ms, 3),
            worker=worker,
        )

    def _keep(self) -> Node | None:
        commit, node = self._request.commit, self._candidate
        if commit is None or node is None or not self.observed.finished:
            return None
        known = self._store.get(node.ref)
        if known is not None and known.hash != node.hash:
            # The same messages, rendered otherwise: a template that prints the date, on another day.
            node.ref = hashing.extend_ref(node.ref, (node.hash.encode(),))
        return node if self._store.put(node, commit.ttl_s) else None


def _is_hit(base: Node, known: list[Boundary], kept: Boundary | None) -> bool:
    """Whether all of the base's prompt but its generation prompt still stands."""
    final = [b for b in known if b.chars <= base.final_chars]
    return not final or (kept is not None and kept.chars >= final[-1].chars)


def _describe(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted", enc_hook=repr)


async def generation_prompt(params: Any, render: RenderText) -> str:
    """The text by which a one-message conversation grows with `add_generation_prompt`; "" if unknown."""

    async def text(wanted: bool) -> str:
        kwargs = {**params.chat_template_kwargs, "add_generation_prompt": wanted}
        changed = dataclasses.replace(params, chat_template_kwargs=kwargs)
        _, prompt = await render([{"role": "user", "content": "x"}], changed)
        return str(prompt["prompt"])

    try:
        without, with_prompt = await text(False), await text(True)
    except Exception:  # A template may refuse such a conversation; this only names paths.
        return ""
    return with_prompt.removeprefix(without) if with_prompt.startswith(without) else ""
