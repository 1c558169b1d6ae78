"""Random conversations on real tokenizers and templates: every id is that of vLLM's full render.

A seeded part; `python -m tests.parity` plays as many turns as wanted.
"""

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings

from app.prefix.wire import Boundary
from app.vllm_plugin.continuation import Continuation, continue_prompt
from app.vllm_plugin.known import NOTHING, Known
from app.vllm_plugin.tokenization import BoundaryTokenizer
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
    assert tally.counts["parted"], "prompts that do not begin as the compared one does"


def append_only(tokenizer: BoundaryTokenizer, text: str, known: Known) -> Continuation:
    """Believes that a template only ever appends, and cuts at the last boundary it knows."""
    return _from_last(tokenizer, text, known, lambda boundary: boundary.chars <= len(text))


def any_added_token(tokenizer: BoundaryTokenizer, text: str, known: Known) -> Continuation:
    """Proves the text, but takes every added token for a boundary."""
    return _from_last(
        tokenizer,
        text,
        known,
        lambda b: xxhash.xxh3_128_hexdigest(text[: b.chars].encode()) == b.text_hash,
    )


def _from_last(
    tokenizer: BoundaryTokenizer, text: str, known: Known, holds: Callable[[Boundary], bool]
) -> Continuation:
    added = {token: found.content for token, found in tokenizer.backend.get_added_tokens_decoder().items()}
    careless = copy.copy(tokenizer)
    careless.admissible, careless.admissible_ids = added, np.fromiter(added, np.int32)
    for count in range(len(known.boundaries), 0, -1):
        boundary = known.boundaries[count - 1]
        if holds(boundary):
            made = continue_prompt(careless, text[boundary.chars :], NOTHING)
            delta = replace(
                made.delta,
                keep_boundaries=count,
                keep_tokens=boundary.tokens,
                keep_chars=boundary.chars,
                boundaries=(),
                span_hashes=(),
            )
            return replace(made, delta=delta)
    return continue_prompt(careless, text, NOTHING)


@pytest.mark.parametrize(
    ("name", "careless", "texts"),
    [
        ("hostile_qwen3", append_only, ("a", "b", "c", "d")),
        # The template puts a newline behind the role once the message is no longer the last one.
        ("hostile_gemma3", any_added_token, ("\n\nhello", "bye")),
    ],
)
def test_the_suite_finds_a_scheme_that_is_wrong(
    name: str,
    careless: Callable[..., Continuation],
    texts: tuple[str, ...],
    load: Callable[[str], Offline],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker = load(name)
    conversation = Conversation(1 << 28, tuple(map(says, texts)))
    play(worker, Tally(), conversation)
    monkeypatch.setattr("app.vllm_plugin.turn.continue_prompt", careless)
    with pytest.raises(Difference, match="ids"):
        play(worker, Tally(), conversation)


def test_sampled_words_are_gone_on_from(load: Callable[[str], Offline]) -> None:
    """The suite's samples are in pieces that no tokenizer makes: what was reused shows in the ids."""
    worker, tally = load("smollm2"), Tally()
    words = [
        ("user", "hello"),
        ("assistant", "hello world"),
        ("user", "The 12"),
        ("assistant", "x = 1"),
        ("user", "?"),
    ]
    steps = tuple(says(text, role, options={}) for role, text in words)
    play(worker, tally, Conversation(1 << 28, steps))
    assert tally.sampled > 0
    asked, tally = tally.sampled, Tally()
    play(worker, tally, Conversation(1 << 28, steps, "canonical"))
    assert (tally.sampled, asked > 10) == (0, True)


def says(text: str, role: str = "assistant", options: dict[str, bool] | None = None) -> Step:
    message = {"role": role, "content": text}
    return Step(
        "continue",
        0,
        (message,),
        {"add_generation_prompt": False} if options is None else options,
        3600,
        False,
    )
