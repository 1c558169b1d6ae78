"""vLLM's block hashes of a prompt, of which only those after a known beginning are computed anew.

For each new request the engine core hashes every full block of the prompt: each block's hash is over the hash
of the block before, the token ids and extra keys. 16 ms for 115k tokens at block size 16. It depends on these
arguments alone, so here it is remembered by all of them, a thousand tokens at a time: a chunk's hashes by the
hash before it and by its ids themselves, compared and not only hashed. vLLM computes the rest, resuming after
the hashes that a request has, as it does for generated tokens.

Seen in vLLM 0.26.0 and 0.32.0: v1/core/kv_cache_utils.py, `get_request_block_hasher`, and v1/request.py.
"""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

CHUNK_TOKENS = 1024
RESIDENT_TOKENS = 4 << 20
"""How many tokens' hashes are remembered: about 8 bytes per token at block size 16, 5 at 128."""

Hasher = Callable[[Any], list[bytes]]


class ResumedHasher:
    """In the place of `stock`, vLLM's hasher of a request's not yet hashed full blocks of `block_tokens`."""

    def __init__(self, stock: Hasher, block_tokens: int, resident_tokens: int = RESIDENT_TOKENS) -> None:
        self._stock = stock
        self._blocks = max(1, CHUNK_TOKENS // block_tokens)
        self._tokens = self._blocks * block_tokens
        self._most = max(1, resident_tokens // self._tokens)
        self._known: OrderedDict[tuple[Any, bytes], tuple[bytes, ...]] = OrderedDict()
        """(hash of the block before, else the cache salt; ids) -> hashes; the least recently used first."""
        self.reused_blocks = 0

    def __call__(self, request: Any) -> list[bytes]:
        """The hashes to append to `request.block_hashes`, which those that are known already are."""
        if not self._is_plain_prompt(request):
            return self._stock(request)
        try:
            ids = np.asarray(request.prompt_token_ids, dtype=np.int32)
        except OverflowError:
            return self._stock(request)
        starts = range(0, len(ids) - self._tokens + 1, self._tokens)
        chunks = [ids[at : at + self._tokens].tobytes() for at in starts]
        resumed = self._resume(request, chunks)
        new = self._stock(request)
        self._remember(request, chunks[resumed:], new)
        return new

    def _is_plain_prompt(self, request: Any) -> bool:
        """A new request whose blocks' extra keys are the cache salt, in the first, and nothing else."""
        return (
            not request.block_hashes
            and request.prompt_token_ids is not None
            and self._tokens <= len(request.prompt_token_ids) == request.num_tokens
            and not request.mm_features
            and request.prompt_embeds is None
            and request.lora_request is None
        )

    def _resume(self, request: Any, chunks: list[bytes]) -> int:
        hashes = request.block_hashes
        for count, chunk in enumerate(chunks):
            key = (hashes[-1] if hashes else request.cache_salt, chunk)
            known = self._known.pop(key, None)
            if known is None:
                return count
            self._known[key] = known
            hashes.extend(known)
            self.reused_blocks += len(known)
        return len(chunks)

    def _remember(self, request: Any, chunks: list[bytes], new: list[bytes]) -> None:
        before = request.block_hashes[-1] if request.block_hashes else request.cache_salt
        for count, chunk in enumerate(chunks):
            hashes = tuple(new[count * self._blocks : (count + 1) * self._blocks])
            self._known[before, chunk] = hashes
            before = hashes[-1]
            if len(self._known) > self._most:
                self._known.popitem(last=False)
