"""Where the plugin's own time before the engine goes: rendering, proof, tokenization, ids. Outside vLLM.

The same functions as in a turn, one after the other on one thread, so that each can be timed alone; the
receipts of `bench.ttft` say what they take together in vLLM's process.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from transformers import AutoTokenizer

from app.prefix.hashing import ids_hash
from app.vllm_plugin import continuation
from app.vllm_plugin.known import NOTHING, Known
from app.vllm_plugin.prompt_ids import PromptIds
from app.vllm_plugin.tokenization import BoundaryTokenizer
from bench.client import history, question

HEADING = (
    "| tokens | render ms | prove ms | prove and tokenize the margin ms | ids: join, hash, list ms "
    "| tokenize all ms |\n" + "|---" * 6 + "|"
)


class Split(NamedTuple):
    """Medians in milliseconds."""

    tokens: int
    render: float
    prove: float
    prove_and_tokenize: float
    ids: float
    whole: float

    def line(self) -> str:
        """As a row under HEADING."""
        return f"| {self.tokens} | " + " | ".join(f"{value:.2f}" for value in self[1:]) + " |"


def measure(model: str, tokens: int, rounds: int) -> Split:
    """For a history of `tokens` tokens and a margin."""
    loaded = AutoTokenizer.from_pretrained(model)
    tokenizer = BoundaryTokenizer(loaded)

    def render(messages: list[dict[str, Any]]) -> str:
        text: str = loaded.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    past = history(tokens)
    before = render(past)
    made = continuation.continue_prompt(tokenizer, before, NOTHING)
    known = Known(
        ids=made.delta.ids,
        boundaries=made.delta.boundaries,
        span_hashes=made.delta.span_hashes,
        sampled=(),
        final_chars=len(before),
        text_chars=len(before),
        text_hash=made.text_hash,
        samples=(),
    )
    messages = [*past, *question(0)]
    text = render(messages)
    grown = continuation.continue_prompt(tokenizer, text, known).delta

    def ids() -> PromptIds:
        joined = np.concatenate((known.ids[: grown.keep_tokens], grown.ids))
        ids_hash(np.ascontiguousarray(joined, dtype="<i4").data)
        return PromptIds(joined)

    if ids() != tokenizer.encode(text):
        raise SystemExit("the ids are not those of a full tokenization: nothing is timed")
    return Split(
        len(ids()),
        _median(lambda: render(messages), rounds),
        _median(lambda: continuation._standing(text, known), rounds),
        _median(lambda: continuation.continue_prompt(tokenizer, text, known), rounds),
        _median(ids, rounds),
        _median(lambda: tokenizer.encode(text), rounds),
    )


def _median(call: Callable[[], object], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        taken.append((time.perf_counter() - started) * 1e3)
    return statistics.median(taken)
