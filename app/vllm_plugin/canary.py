"""The canary: some continued prompts are made a second time, in full, and compared.

It runs after the answer, one at a time. A difference quarantines the fingerprint for as long as the process
lives: its turns go to vLLM's own route, which is slower and right.
"""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

import numpy as np

from app.vllm_plugin.known import SampledSpan, TokenIds
from app.vllm_plugin.tokenization import BoundaryTokenizer

logger = logging.getLogger("vllm.marginalia")

Differ = Callable[[], Awaitable[bool]]
"""Makes a prompt both ways, and says whether they differ."""


class Canary:
    """Checks a share (0 to 1) of what it is told of. `quarantined`: fingerprints of which one was wrong."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.quarantined: set[str] = set()
        self._counts: Counter[str] = Counter({"checked": 0, "differences": 0, "failed": 0})
        self._running: asyncio.Task[None] | None = None

    def stats(self) -> dict[str, int | float]:
        return {"share": self.share, **self._counts, "quarantined": len(self.quarantined)}

    def maybe(self, fingerprint: str, differ: Differ) -> None:
        """Start a check, if it is this turn's lot and none is running."""
        busy = self._running is not None and not self._running.done()
        if not busy and random.random() < self.share:
            self._running = asyncio.create_task(self._check(fingerprint, differ))

    async def settled(self) -> None:
        """Returns when no check is running."""
        if self._running is not None:
            await self._running

    async def _check(self, fingerprint: str, differ: Differ) -> None:
        try:
            # Once more: a template may have printed another date in between.
            differs = await differ() and await differ()
        except Exception:
            self._counts["failed"] += 1
            logger.exception("Marginalia could not make a prompt a second time")
            return
        self._counts["checked"] += 1
        if differs:
            self._counts["differences"] += 1
            self.quarantined.add(fingerprint)
            logger.error(
                "Marginalia made other ids than vLLM: prefixes of fingerprint %s are in quarantine",
                fingerprint,
            )


def same_tokens(
    tokenizer: BoundaryTokenizer,
    text: str,
    ids: TokenIds,
    sampled: Sequence[SampledSpan],
    full: Sequence[int],
) -> bool:
    """Whether `ids` are those of the full tokenization of `text`, but for what was sampled."""
    expected = np.asarray(full, dtype=np.int32)
    if not sampled:
        return np.array_equal(ids, expected)
    encoding = tokenizer.backend.encode(text, add_special_tokens=False)
    if encoding.ids != list(full):
        return False
    starts = np.array([start for start, _ in encoding.offsets])
    token, char = 0, 0
    for span in [*sampled, SampledSpan(len(ids), len(ids), len(text) + 1, len(text) + 1)]:
        first, last = np.searchsorted(starts, (char, span.first_char))
        if not np.array_equal(ids[token : span.first_token], expected[first:last]):
            return False
        token, char = span.end_token, span.end_char
    return True
