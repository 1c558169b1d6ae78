"""How much of what the model sampled the next prompt can go on from.

The rendered text of an answer, tokenized, need not give the ids that the model sampled: a word may be
spelled in other pieces. Going on from the sampled ids keeps the KV blocks of the model's own words.
It is the same text, and that is checked: see docs/adr/0007-sampled-ids.md.
"""

from dataclasses import dataclass

from app.vllm_plugin.known import Known, TokenIds
from app.vllm_plugin.tokenization import BoundaryTokenizer


@dataclass(frozen=True, slots=True)
class Reuse:
    """`ids` as sampled, then the boundary token `boundary`, which starts at character `until`.

    boundaries: (start, end, number of ids up to it) of the boundary tokens among `ids`.
    """

    ids: TokenIds
    until: int
    boundary: int
    boundaries: list[tuple[int, int, int]]


def longest_reuse(tokenizer: BoundaryTokenizer, text: str, known: Known) -> Reuse | None:
    """The beginning of a sample, with the longest text, that `text` goes on with after the known prompt's.

    `text` must be known to begin with that text.
    """
    found = [reuse for sample in known.samples if (reuse := _Sample(tokenizer, text, known, sample).reuse())]
    return max(found, key=lambda reuse: reuse.until, default=None)


class _Sample:
    def __init__(self, tokenizer: BoundaryTokenizer, text: str, known: Known, sample: TokenIds) -> None:
        self._tokenizer = tokenizer
        self._text = text
        self._ids = sample
        self._sample: list[int] = sample.tolist()
        # With what comes before it, from a boundary on: a decoder treats a text's first token its own way.
        self._start, first = 0, 0
        if known.boundaries:
            last = known.boundaries[-1]
            first = last.tokens - 1
            self._start = last.chars - len(tokenizer.admissible[int(known.ids[first])])
        self._before: list[int] = known.ids[first:].tolist()
        self._from = known.text_chars - self._start

    def reuse(self) -> Reuse | None:
        agreed = self._agreed()
        whole = self._last(range(1, len(self._sample) + 1), agreed)
        inner = [k for k in range(1, whole + 1) if self._at(k) in self._tokenizer.admissible]
        # All that agrees, if the text goes on with a boundary there; else up to the last boundary in it.
        for count in (whole, self._last(inner, agreed)):
            if count and (reuse := self._checked(count)):
                return reuse
        return None

    def _at(self, count: int) -> int:
        """The id after the first `count`."""
        return self._sample[count] if count < len(self._sample) else -1

    def _spoken(self, count: int) -> str:
        """Text from `_start` on, to the end of the first `count` sampled ids."""
        spoken: str = self._tokenizer.backend.decode(
            self._before + self._sample[:count], skip_special_tokens=False
        )
        return spoken

    def _agreed(self) -> int:
        """Characters from `_start` on in which the sample's text and the new text agree."""
        spoken = self._spoken(len(self._sample))
        low, high = 0, min(len(spoken), len(self._text) - self._start)
        while low < high:
            middle = (low + high + 1) // 2
            if self._text.startswith(spoken[:middle], self._start):
                low = middle
            else:
                high = middle - 1
        return low

    def _last(self, counts: "range | list[int]", agreed: int) -> int:
        """The largest of `counts` whose text ends within `agreed`; 0 if none does."""
        low, high = 0, len(counts)
        while low < high:
            middle = (low + high) // 2
            if len(self._spoken(counts[middle])) <= agreed:
                low = middle + 1
            else:
                high = middle
        return counts[low - 1] if low else 0

    def _checked(self, count: int) -> Reuse | None:
        """The first `count` ids, if the text holds them and then a boundary, and nothing reads otherwise."""
        spoken = self._spoken(count)
        until = self._start + len(spoken)
        if len(spoken) <= self._from or "\ufffd" in spoken or not self._text.startswith(spoken, self._start):
            return None
        boundary = self._tokenizer.boundary_at(self._text, until)
        if boundary is None:
            return None
        end = until + len(self._tokenizer.admissible[boundary])
        encoding = self._tokenizer.backend.encode(self._text[self._start : end], add_special_tokens=False)
        # A model can spell an added token from ordinary ones; one can begin in its words and end after.
        # A list of its own: the library makes one anew at each look.
        ids: list[int] = encoding.ids
        known = self._before + self._sample[:count]
        tokens = [i for i, token in enumerate(known) if token in self._tokenizer.added]
        read = [i for i, token in enumerate(ids) if token in self._tokenizer.added]
        if [ids[i] for i in read] != [known[i] for i in tokens] + [boundary] or read[-1] != len(ids) - 1:
            return None
        places = [
            (index, *(encoding.token_to_chars(at) or (0, 0))) for index, at in zip(tokens, read, strict=False)
        ]
        boundaries = self._boundaries(known, places)
        return None if boundaries is None else Reuse(self._ids[:count], until, boundary, boundaries)

    def _boundaries(
        self, known: list[int], places: list[tuple[int, int, int]]
    ) -> list[tuple[int, int, int]] | None:
        """Where the sampled boundary tokens are. places: (index in `known`, start, end from `_start` on) of
        every added token. None where one of them was said in ordinary tokens and is a token elsewhere."""
        boundaries = []
        # Decoded piece by piece, each from the boundary before it: an answer may be a table of them.
        at, position = 0, 0
        for index, first, last in places:
            count = index - len(self._before) + 1
            if count < 1 or known[index] not in self._tokenizer.admissible:
                continue
            piece = self._tokenizer.backend.decode(known[at : index + 1], skip_special_tokens=False)
            if position + len(piece) != last:
                return None
            boundaries.append((self._start + first, self._start + last, count))
            at, position = index, first
        return boundaries
