"""The detokenizer, primed with the end of the prompt only.

vLLM primes a `DecodeStream` with the whole prompt and so decodes all of it at the first token: 70 ms at 120k
tokens. What a next token adds to the text depends on far less: here the stream gets the prompt from the last
safe boundary on that has some ordinary tokens after it. At such a token no character and no run of byte
tokens is cut in two, and the tokens after it keep a decoder from taking the next one for a text's first.

Seen in vLLM 0.26.0 and 0.32.0, v1/engine/detokenizer.py, which looks `DecodeStream` up on its module so that
it can be replaced.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

import tokenizers.decoders
from tokenizers import Tokenizer

_ORDINARY_TOKENS = 16
SHORT_PROMPT = 1024
"""Tokens; below, priming costs nothing worth saving."""


def tail_start(ids: Sequence[int], boundaries: Collection[int], added: Collection[int]) -> int:
    """Index of the last id in `boundaries` that at least 16 ids not in `added` follow; 0 if there is none."""
    ordinary = 0
    for index in range(len(ids) - 1, -1, -1):
        if ids[index] not in added:
            ordinary += 1
        elif ordinary >= _ORDINARY_TOKENS and ids[index] in boundaries:
            return index
    return 0


def tail_stream(
    backend: Tokenizer, boundaries: Collection[int], added: Collection[int], short_prompt: int = SHORT_PROMPT
) -> Callable[..., Any]:
    """A `DecodeStream` that is primed with the tail of a prompt longer than `short_prompt`.

    boundaries, added: ids of `backend`'s safe boundaries, and of all its added tokens.
    """
    whole = tokenizers.decoders.DecodeStream

    def decode_stream(ids: Sequence[int] | None = None, skip_special_tokens: bool = False) -> Any:
        if ids is not None and len(ids) > short_prompt:
            tail = ids[tail_start(ids, boundaries, added) :]
            # The library takes a prompt that ends in half a character for no prompt at all, and then says
            # all of it with the first token. That is for it to mend.
            if not backend.decode(tail, skip_special_tokens).endswith("\ufffd"):
                ids = tail
        return whole(ids=ids, skip_special_tokens=skip_special_tokens)

    return decode_stream


def prime_with_tail(backend: Tokenizer, boundaries: Collection[int], added: Collection[int]) -> None:
    """From now on, all decode streams of this process start at the prompt's tail."""
    tokenizers.decoders.DecodeStream = tail_stream(backend, boundaries, added)  # type: ignore[assignment,misc]
