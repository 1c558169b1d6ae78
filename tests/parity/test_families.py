"""Random conversations on real tokenizers and templates: every id is that of vLLM's full render.

A seeded part; `python -m tests.parity` plays as many turns as wanted.
"""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings

from app.prefix.wire import Boundary
from app.vllm_plugin.tokenization import BoundaryTokenizer, TokenIds, Tokenized
from tests.parity.conversations import Conversation, Step, conversations
from tests.parity.families import FAMILIES
from tests.parity.offline import Offline
from tests.parity.play import Difference, Tally, play

EXAMPLES = 15
SEEDED = settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_turn_has_the_ids_of_the_full_render(name: str, load: Callable[[str], Offline]) -> None:
    worker, tally = load(name), Tally()
    assert worker.service.refusal is None

    @SEEDED
    @given(conversations(worker.family))
    def compared(conversation: Conversation) -> None:
        play(worker, tally, conversation)

    compared()
    # Else nothing was shown: turns that continue, and that reuse a good part of what they have.
    assert tally.counts["turns"] > 5 * EXAMPLES
    assert tally.counts["hit"] + tally.counts["rewind"] > tally.counts["turns"] / 4
    assert tally.reused > tally.tokens / 20
    assert tally.counts["prefix_miss"] and tally.counts["prefix_expired"]


class AppendOnly:
    """Believes that a template only ever appends, and cuts at the last boundary it knows."""

    def __init__(self, sound: BoundaryTokenizer) -> None:
        self._sound = sound

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sound, name)

    def holds(self, text: str, boundary: Boundary) -> bool:
        return boundary.chars <= len(text)

    def tokenize(self, text: str, known: Sequence[Boundary], known_ids: TokenIds) -> Tokenized:
        for boundary in reversed(known):
            if self.holds(text, boundary):
                rest = np.array(self._sound.encode(text[boundary.chars :]), np.int32)
                return Tokenized(boundary, rest, ())
        return self._sound.tokenize(text, (), known_ids)


class AnyAddedToken(AppendOnly):
    """Proves the text, but takes every added token for a boundary."""

    def __init__(self, sound: BoundaryTokenizer) -> None:
        super().__init__(copy.copy(sound))
        added = sound.backend.get_added_tokens_decoder()
        self._sound.admissible = {token: found.content for token, found in added.items()}

    def holds(self, text: str, boundary: Boundary) -> bool:
        return xxhash.xxh3_128_hexdigest(text[: boundary.chars].encode()) == boundary.text_hash


@pytest.mark.parametrize(
    ("name", "careless", "texts"),
    [
        ("hostile_qwen3", AppendOnly, ("a", "b", "c", "d")),
        # The template puts a newline behind the role once the message is no longer the last one.
        ("hostile_gemma3", AnyAddedToken, ("\n\nhello", "bye")),
    ],
)
def test_the_suite_finds_a_scheme_that_is_wrong(
    name: str, careless: type[AppendOnly], texts: tuple[str, ...], load: Callable[[str], Offline]
) -> None:
    worker = load(name)
    conversation = Conversation(1 << 28, tuple(map(_says, texts)))
    play(worker, Tally(), conversation)
    sound = worker.service._tokenizer
    worker.service._tokenizer = careless(sound)  # type: ignore[assignment]
    try:
        with pytest.raises(Difference, match="ids"):
            play(worker, Tally(), conversation)
    finally:
        worker.service._tokenizer = sound


def _says(text: str) -> Step:
    message = {"role": "assistant", "content": text}
    return Step("continue", 0, (message,), {"add_generation_prompt": False}, 3600, False)
