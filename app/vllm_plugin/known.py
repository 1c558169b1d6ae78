"""What is known of a conversation's prompt: its token ids, and what proves which part of them still holds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from app.prefix.wire import Boundary

TokenIds = npt.NDArray[np.int32]


class SampledSpan(NamedTuple):
    """Where a prompt has ids as the model sampled them, between the boundaries around them.

    The same text as in a full render, perhaps not the same tokens: left out of comparisons of ids.
    Token indexes and character offsets from the prompt's start, ends exclusive.
    """

    first_token: int
    end_token: int
    first_char: int
    end_char: int


@dataclass(frozen=True, slots=True)
class Known:
    """A prompt that was made before.

    boundaries: its safe boundaries in order. span_hashes: for each of them, xxh3-128 of the text from the
    start of the boundary token before it (or of the prompt) to its own end, 16 bytes.
    text_chars, text_hash: length of the whole text in code points, and xxh3-128 of its UTF-8.
    final_chars: characters before the generation prompt, which a next turn should not change.
    samples: ids that the model answered with, one entry per answer.
    """

    ids: TokenIds
    boundaries: Sequence[Boundary]
    span_hashes: Sequence[bytes]
    sampled: Sequence[SampledSpan]
    final_chars: int
    text_chars: int
    text_hash: str
    samples: Sequence[TokenIds]

    def canonical(self) -> "Known":
        """The part before the first sampled span: the ids that a full render would give."""
        if not self.sampled:
            return self
        first = self.sampled[0]
        count = sum(b.tokens <= first.first_token for b in self.boundaries)
        kept, hashes = self.boundaries[:count], self.span_hashes[:count]
        return Known(self.ids[: first.first_token], kept, hashes, (), self.final_chars, -1, "", ())


NOTHING = Known(np.empty(0, np.int32), (), (), (), 0, -1, "", ())


@dataclass(frozen=True, slots=True)
class Delta:
    """A prompt, as what of a known one it begins with and what follows.

    keep_boundaries, keep_tokens, keep_chars: how much of the known prompt stands. `ids` and the others are
    those after it, counted from the start of the whole prompt (see Known).
    """

    keep_boundaries: int
    keep_tokens: int
    keep_chars: int
    ids: TokenIds
    boundaries: tuple[Boundary, ...]
    span_hashes: tuple[bytes, ...]
    sampled: tuple[SampledSpan, ...]

    def whole(self, known: Known, ids: TokenIds) -> "Delta":
        """The same with what it keeps of `known` in it; `ids` are those of the whole prompt."""
        return Delta(
            keep_boundaries=0,
            keep_tokens=0,
            keep_chars=0,
            ids=ids,
            boundaries=(*known.boundaries[: self.keep_boundaries], *self.boundaries),
            span_hashes=(*known.span_hashes[: self.keep_boundaries], *self.span_hashes),
            sampled=(*cut_spans(known.sampled, self.keep_tokens, self.keep_chars), *self.sampled),
        )


def cut_spans(spans: Iterable[SampledSpan], tokens: int, chars: int) -> list[SampledSpan]:
    """What is left of `spans` in a prompt that is cut after so many tokens and characters."""
    return [
        span if span.end_token <= tokens else span._replace(end_token=tokens, end_char=chars)
        for span in spans
        if span.first_token < tokens
    ]
