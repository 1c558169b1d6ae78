"""A tokenizer with its safe boundaries: added tokens at whose end it splits whatever follows.

The rules, and what breaks weaker ones, are in docs/adr/0002-exactness-by-re-proof.md.
"""

from bisect import bisect_left
from collections.abc import Sequence
from typing import Any

import numpy as np
import xxhash
from tokenizers import AddedToken, Tokenizer

from app.vllm_plugin.known import TokenIds
from app.vllm_plugin.spans import Splitter

_SELF_TEST_TEXTS = (
    ("", "a"),
    ("Hello", " world"),
    ("a\n", "\n\nb"),
    (" ", "  \t"),
    ("naïve 你好", "👩‍👩‍👧 été"),
    ("x", "<|"),
    ("12", "34.5"),
)


class BoundaryTokenizer:
    """A private clone of a loaded fast tokenizer, with the added tokens that are safe boundaries.

    Raises ValueError when the tokenizer has no fast backend. When the self-test of the loaded backend
    fails, `admissible` is empty and `refusal` says why: every turn is then tokenized in full.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise ValueError("the tokenizer has no fast backend")
        self._source = tokenizer
        # A clone: vLLM swaps and configures (truncation, padding) its own between requests.
        self.backend: Tokenizer = Tokenizer.from_str(backend.to_str())
        self.backend.no_truncation()
        self.backend.no_padding()
        self.backend.encode_special_tokens = False
        # It adds no token to what is encoded here, but some move offsets away from the text.
        self.backend.post_processor = None
        self.vocabulary_size = backend.get_vocab_size(with_added_tokens=True)
        self.added = frozenset(self.backend.get_added_tokens_decoder())
        """Ids of all added tokens."""
        self.refusal: str | None = None
        self.admissible = self._self_tested(admissible_tokens(self.backend))
        """Ids of the safe boundary tokens, with their text."""
        self.admissible_ids = np.fromiter(self.admissible, np.int32)
        rules = f"{self.backend.to_str()}{sorted(self.admissible)}"
        self.definition_hash = xxhash.xxh3_128_digest(rules.encode())
        """Of what tokenizes, and of where it is believed to split: old seeds of other rules are not taken."""
        self.splitter = Splitter(self.backend, self.admissible)
        self._longest = max(map(len, self.admissible.values()), default=0)

    def changed(self) -> bool:
        """Whether tokens were added to the loaded tokenizer since this clone was made."""
        size: int = self._source.backend_tokenizer.get_vocab_size(with_added_tokens=True)
        return size != self.vocabulary_size

    @property
    def chat_template(self) -> Any:
        """The template that came with the tokenizer."""
        return getattr(self._source, "chat_template", None)

    def encode(self, text: str) -> list[int]:
        """Token ids of `text` without the tokens that a post-processor would add."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=False).ids
        return ids

    def boundary_at(self, text: str, start: int) -> int | None:
        """The safe boundary token that begins at character `start` of `text`, if one does."""
        ids = self.encode(text[start : start + self._longest])
        content = self.admissible.get(ids[0]) if ids else None
        return ids[0] if content is not None and text.startswith(content, start) else None

    def ids_at_end(self, ids: TokenIds, chars: int) -> int:
        """How many of the last `ids` hold the last `chars` characters, counting one that holds others too."""
        # No token is less than a byte, and no character more than four.
        last: list[int] = ids[max(0, len(ids) - 4 * chars) :].tolist()

        def held(count: int) -> int:
            return len(self.backend.decode(last[len(last) - count :], skip_special_tokens=False))

        return bisect_left(range(len(last)), chars, key=held)

    def _self_tested(self, tokens: dict[int, str]) -> dict[int, str]:
        passed = {}
        for token, content in tokens.items():
            for left, right in _SELF_TEST_TEXTS:
                whole = self.encode(left + content + right)
                head, tail = self.encode(left + content), self.encode(content + right)
                if left and head[-1:] != [token]:
                    continue  # `left` made it part of another token: no boundary there, and none is taken.
                if tail[:1] != [token] or head[-1:] != [token] or whole != head + tail[1:]:
                    break
            else:
                passed[token] = content
        sample = "".join(left + right for left, right in _SELF_TEST_TEXTS) + "".join(passed.values())
        if self._source(sample, add_special_tokens=False)["input_ids"] != self.encode(sample):
            self.refusal = "tokenizer_self_test_failed"
            return {}
        if not passed:
            self.refusal = "no_admissible_boundary"
        return passed


def admissible_tokens(backend: Tokenizer) -> dict[int, str]:
    """The added tokens of `backend` that are safe boundaries by their definition, id to text."""
    added: dict[int, AddedToken] = backend.get_added_tokens_decoder()
    model = getattr(backend, "model", None)
    if getattr(model, "dropout", None):
        return {}
    contents = [t.content for t in added.values()]
    # One text to search in, because Gemma 3 has 6415 added tokens.
    beginnings = "\0".join(other[:-1] for other in contents)
    normalizes = backend.normalizer is not None and backend.normalizer.__getstate__() != _NO_STEPS
    whole_words = [t.content for t in added.values() if t.single_word]
    return {
        token: t.content
        for token, t in added.items()
        if t.content
        and not (t.lstrip or t.rstrip or t.single_word)
        and t.content not in beginnings
        and not any(_begins_within(t.content, other) for other in whole_words)
        and (not t.normalized or (not normalizes and not _straddled(t.content, contents)))
    }


_NO_STEPS = b'{"type":"Sequence","normalizers":[]}'
"""DeepSeek-V3's normalizer, which does nothing."""


def _begins_within(content: str, other: str) -> bool:
    """Whether `content` could begin inside `other`. Of a `single_word` token that is found but does not stand
    alone, the backend gives the text to the model, and with it the beginning of `content`."""
    return any(other.endswith(content[:k]) for k in range(1, len(content) + 1))


def _straddled(content: str, contents: Sequence[str]) -> bool:
    """Whether another added token could begin inside `content` and end after it."""
    return any(
        content[-k:] == other[:k]
        for other in contents
        if other != content
        for k in range(1, min(len(content), len(other) - 1) + 1)
    )
