"""The plugin's memory: bytes per resident token, and what a budget ten times too small costs.

    python -m bench.store [--tokens 110000] [--conversations 40] [--turns 600]

Without an engine, with Qwen3's own tokenizer and template and vLLM's renderer. First one conversation of
messages of 500 tokens grows turn by turn; what it keeps is what tracemalloc sees freed with the store. Then
conversations take turns, some more often than others, with room for all of them and with a tenth of that;
where a prefix was lost the whole history is sent, as the service does.
"""

import argparse
import gc
import random
import tracemalloc
from dataclasses import dataclass
from typing import Any

from app.prefix.wire import PROTOCOL, Commit, PrefixChatRequest, Receipt, Reference
from app.vllm_plugin.references import PrefixMiss
from bench import items, texts
from tests.parity.families import FAMILIES
from tests.parity.offline import MODEL, Offline, Refused

MEGABYTE = 1 << 20
AMPLE_BYTES = 1 << 30
TOKENS_EACH = 8000
HEADING = (
    "| budget MB | turns | hits | lost and sent again | evicted | refused | tokens tokenized |\n"
    + "|---" * 7
    + "|"
)


@dataclass(eq=False)
class Talk:
    """A conversation: its messages, how many of them were sent, and the reference to those."""

    messages: list[dict[str, Any]]
    sent: int = 0
    reference: Reference | None = None

    def turn(self, worker: Offline) -> Receipt:
        """Send the next two messages; the whole history where the prefix was lost."""
        end = min(self.sent + 2, len(self.messages))
        try:
            receipt = _send(worker, self.messages[self.sent : end], self.reference)
        except PrefixMiss:
            receipt = _send(worker, self.messages[:end], None)
        self.sent = end
        known = (receipt.hash, receipt.tokens, receipt.fingerprint)
        # Refused by the store, it cannot be named: a reference that is none is a miss.
        self.reference = Reference(receipt.ref or "", *known)
        return receipt


def _send(worker: Offline, messages: list[dict[str, Any]], reference: Reference | None) -> Receipt:
    chat = {"model": MODEL, "max_tokens": 1}
    request = PrefixChatRequest(PROTOCOL, "n", chat, messages, reference, None, Commit(3600))
    answer = worker.runner.run(worker.turn(request))
    if isinstance(answer, Refused):
        raise SystemExit(f"vLLM refused a turn: {answer.message}")
    return answer[1]


def talk(name: int, tokens: int) -> Talk:
    title = f"Conversation {name}"
    told = items.messages(texts.history(tokens, title))
    return Talk([{"role": "system", "content": title}, *told])


def per_token(worker: Offline, tokens: int) -> str:
    """What one conversation keeps resident, and what the store thinks that it keeps."""
    store = worker.empty_store(AMPLE_BYTES)
    growing = talk(0, tokens)
    tracemalloc.start()
    while growing.sent < len(growing.messages):
        growing.turn(worker)
    stats = store.stats()
    with_store = _traced_bytes(worker)
    del store
    worker.empty_store(AMPLE_BYTES)
    without = _traced_bytes(worker)
    tracemalloc.stop()
    text = sum(len(message["content"]) for message in growing.messages)
    return (
        f"{stats['tokens']} tokens in {stats['nodes']} turns, {text / stats['tokens']:.1f} characters each: "
        f"{(with_store - without) / stats['tokens']:.2f} bytes per token "
        f"({stats['bytes_used'] / stats['tokens']:.2f} by the store's own count)"
    )


def _traced_bytes(worker: Offline) -> int:
    talk(1, 0).turn(worker)  # The last turn is kept at hand, and with it what it continues.
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def evictions(worker: Offline, conversations: int, turns: int, budget_bytes: int) -> tuple[str, int]:
    """One row, and the bytes that were used at the end."""
    chance = random.Random(0)
    store = worker.empty_store(budget_bytes)
    talks = [talk(n, TOKENS_EACH) for n in range(conversations)]
    # Each is twice as likely to be continued as the one ten places after it.
    weights = [0.5 ** (n / 10) for n in range(conversations)]
    hits = tokenized = lost = 0
    for n in range(turns):
        (chosen,) = chance.choices(talks, weights)
        if chosen.sent == len(chosen.messages):
            talks[talks.index(chosen)] = chosen = talk(conversations + n, TOKENS_EACH)
        began = chosen.sent == 0
        receipt = chosen.turn(worker)
        assert store.bytes_used <= budget_bytes
        hits += receipt.path == "hit"
        lost += receipt.path != "hit" and not began
        tokenized += receipt.tokenized_tokens
    stats = store.stats()
    return (
        f"| {budget_bytes / MEGABYTE:.1f} | {turns} | {hits} | {lost} | {stats['evicted']} "
        f"| {stats['refused']} | {tokenized} |",
        stats["bytes_used"],
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, default=110_000)
    parser.add_argument("--conversations", type=int, default=40)
    parser.add_argument("--turns", type=int, default=600)
    options = parser.parse_args()
    worker = Offline(FAMILIES["qwen3"])
    try:
        print(per_token(worker, options.tokens), flush=True)
        print(HEADING)
        row, used = evictions(worker, options.conversations, options.turns, AMPLE_BYTES)
        print(row, flush=True)
        print(evictions(worker, options.conversations, options.turns, used // 10)[0])
    finally:
        worker.close()


if __name__ == "__main__":
    main()
