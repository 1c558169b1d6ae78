"""Exact continuation: tokenize only the text after the last safe boundary that still holds.

A *safe boundary* is the end of an added token at which the tokenizer splits whatever follows. Equal text
up to such a place means equal token ids up to it; nothing else is assumed about the chat template. The
rules, and what breaks weaker ones, are in docs/adr/0002-exactness-by-re-proof.md.
"""

from dataclasses import dataclass

import numpy as np
import xxhash

from app.prefix.wire import Boundary
from app.vllm_plugin.known import Delta, Known, SampledSpan, TokenIds
from app.vllm_plugin.sampled import Reuse, longest_reuse
from app.vllm_plugin.tokenization import BoundaryTokenizer


@dataclass(frozen=True, slots=True)
class Continuation:
    """A prompt as a delta over a known one, and how it was made.

    sampled_tokens, span_tokens: how many of the delta's ids were sampled, and how many are the known prompt's
    from another place. All others were tokenized. text_hash: of the whole text.
    """

    delta: Delta
    sampled_tokens: int
    span_tokens: int
    text_hash: str

    @property
    def reused_tokens(self) -> int:
        return self.delta.keep_tokens + self.sampled_tokens + self.span_tokens


def continue_prompt(tokenizer: BoundaryTokenizer, text: str, known: Known) -> Continuation:
    """Token ids of `text`, with what still holds of `known`."""
    standing, hasher, whole = _standing(text, known)
    if whole and known.samples and (reuse := longest_reuse(tokenizer, text, known)):
        growth = _Growth(tokenizer, text, known, standing, hasher.copy())
        if growth.take_sample(reuse):
            return growth.result(standing)
    for count in range(standing, -1, -1):
        if count != standing:
            stands = known.boundaries[count - 1].chars if count else 0
            hasher = xxhash.xxh3_128(text[:stands].encode())
        for with_spans in (True, False) if count < len(known.boundaries) else (False,):
            growth = _Growth(tokenizer, text, known, count, hasher.copy())
            if (not with_spans or growth.take_spans()) and growth.tokenize():
                return growth.result(count)
    raise AssertionError("a text can always be tokenized from its start")


def _standing(text: str, known: Known) -> tuple[int, xxhash.xxh3_128, bool]:
    """How many of the known boundaries stand in `text`, a hasher that has read up to the last of them, and
    whether the known text stands to its end."""
    hasher, position = xxhash.xxh3_128(), 0
    if known.boundaries:
        last = known.boundaries[-1]
        hasher.update(text[: last.chars].encode())
        if last.chars > len(text) or hasher.hexdigest() != last.text_hash:
            return *_walk(text, known), False
        position = last.chars
    if not position <= known.text_chars <= len(text):
        return len(known.boundaries), hasher, False
    end = hasher.copy()
    end.update(text[position : known.text_chars].encode())
    return len(known.boundaries), hasher, end.hexdigest() == known.text_hash


def _walk(text: str, known: Known) -> tuple[int, xxhash.xxh3_128]:
    """How many of the known boundaries stand, and a hasher that has read up to the last of them."""
    standing, hasher, position = 0, xxhash.xxh3_128(), 0
    reading = hasher.copy()
    for boundary in known.boundaries:
        reading.update(text[position : boundary.chars].encode())
        if boundary.chars > len(text) or reading.hexdigest() != boundary.text_hash:
            break
        position, standing, hasher = boundary.chars, standing + 1, reading.copy()
    return standing, hasher


class _Growth:
    """A prompt on its way, from the first `count` boundaries of a known one; `hasher` has read their text."""

    def __init__(
        self, tokenizer: BoundaryTokenizer, text: str, known: Known, count: int, hasher: xxhash.xxh3_128
    ) -> None:
        self._tokenizer = tokenizer
        self._text = text
        self._known = known
        self._count = count
        self._hasher = hasher
        kept = known.boundaries[count - 1] if count else Boundary(0, 0, "")
        self._keep_tokens, self._keep_chars = kept.tokens, kept.chars
        self._tokens, self._hashed = kept.tokens, kept.chars
        self._boundary = int(known.ids[kept.tokens - 1]) if count else None
        """The last boundary token; tokenization goes on from its start."""
        self._start = kept.chars - len(tokenizer.admissible.get(self._boundary or 0, "") if count else "")
        self._parts: list[TokenIds] = []
        self._boundaries: list[Boundary] = []
        self._span_hashes: list[bytes] = []
        self._sampled: list[SampledSpan] = []
        self._sampled_tokens = self._span_tokens = 0

    def tokenize(self, until: int | None = None, *, again: bool = True) -> bool:
        """Append the ids of the text from the last boundary token to `until`.

        again: that token has its id already. False, and nothing is appended, when the text does not
        begin with it.
        """
        start, encoding = (
            self._start,
            self._tokenizer.backend.encode(self._text[self._start : until], add_special_tokens=False),
        )
        ids = np.asarray(encoding.ids, dtype=np.int32)
        skipped = 0
        if self._boundary is not None:
            if not len(ids) or ids[0] != self._boundary:
                return False
            skipped = int(again)
        before = self._tokens - skipped
        for index in np.flatnonzero(np.isin(ids, self._tokenizer.admissible_ids)).tolist():
            if index < skipped:
                continue
            first, last = encoding.token_to_chars(index) or (0, 0)
            # An id alone is not enough: the text at its own offset must be the token's.
            if self._text[start + first : start + last] == self._tokenizer.admissible[int(ids[index])]:
                self._mark(start + first, start + last, before + index + 1, int(ids[index]))
        self._append(ids[skipped:])
        return True

    def take_sample(self, reuse: Reuse) -> bool:
        """Append what was sampled after all of the known prompt, and the text's own ids after that."""
        known_tokens = len(self._known.ids)
        self._sampled.append(
            SampledSpan(self._tokens, known_tokens + len(reuse.ids), self._keep_chars, reuse.until)
        )
        self._keep_tokens, self._keep_chars, self._tokens = known_tokens, self._known.text_chars, known_tokens
        for first, end, count in reuse.boundaries:
            self._mark(first, end, known_tokens + count, int(reuse.ids[count - 1]))
        self._append(reuse.ids)
        self._sampled_tokens = len(reuse.ids)
        self._start, self._boundary = reuse.until, reuse.boundary
        return self.tokenize(again=False)

    def take_spans(self) -> bool:
        """Append ids up to the last span that the known prompt has elsewhere; those between are tokenized.

        False when the tokenizer does not split where it should; nothing can be made of this then.
        """
        known, places = self._known, self._places()
        splits = [
            (self._start + first, self._start + end)
            for first, end in self._tokenizer.splitter.split(self._text[self._start :])
        ]
        if self._count and splits[:1] != [(self._start, self._keep_chars)]:
            return False
        last, tokenized_to = self._start, self._keep_chars
        for first, end in splits[1 if self._count else 0 :]:
            place = places.get(xxhash.xxh3_128_digest(self._text[last:end].encode()))
            if place is not None:
                if self._hashed != tokenized_to and not (
                    self.tokenize(tokenized_to) and self._hashed == tokenized_to
                ):
                    return False
                ids = known.ids[slice(*place)]
                self._mark(first, end, self._tokens + len(ids), int(ids[-1]))
                self._append(ids)
                self._span_tokens += len(ids)
            last, tokenized_to = first, end
        return True

    def _places(self) -> dict[bytes, tuple[int, int]]:
        """Where the known prompt has the ids of a span's text, by the text's hash; none that were sampled."""
        places, first = {}, self._tokens
        known = self._known
        for boundary, span in zip(
            known.boundaries[self._count :], known.span_hashes[self._count :], strict=True
        ):
            if not any(first < s.end_token and boundary.tokens > s.first_token for s in known.sampled):
                places[span] = (first, boundary.tokens)
            first = boundary.tokens
        return places

    def _append(self, ids: TokenIds) -> None:
        self._parts.append(ids)
        self._tokens += len(ids)

    def _mark(self, first: int, end: int, tokens: int, token: int) -> None:
        self._span_hashes.append(xxhash.xxh3_128_digest(self._text[self._start : end].encode()))
        self._hasher.update(self._text[self._hashed : end].encode())
        self._boundaries.append(Boundary(end, tokens, self._hasher.hexdigest()))
        self._start, self._hashed, self._boundary = first, end, token

    def result(self, count: int) -> Continuation:
        self._hasher.update(self._text[self._hashed :].encode())
        delta = Delta(
            keep_boundaries=count,
            keep_tokens=self._keep_tokens,
            keep_chars=self._keep_chars,
            ids=np.concatenate(self._parts) if self._parts else np.empty(0, np.int32),
            boundaries=tuple(self._boundaries),
            span_hashes=tuple(self._span_hashes),
            sampled=tuple(self._sampled),
        )
        return Continuation(delta, self._sampled_tokens, self._span_tokens, self._hasher.hexdigest())
