"""Time to the first token: the whole history to stock vLLM, against a reference to the plugin.

    python -m bench.ttft [--tokens 1000 8000 32000] [--rounds 7]

Both modes run against one vLLM server with a tiny random model, in turns of changing order, with the KV
cache warm for both: the first round of each warms a cache of its own (`cache_salt`) and is not counted.
The ids of both are compared before anything is timed. Prints medians in milliseconds and their ratio.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from app.local.model import default_model
from app.local.vllm import LocalVllm
from app.prefix.wire import PROTOCOL, SECRET_HEADER
from app.settings import load
from bench import tiny

SECRET = "for-benchmarks-only"
CHAT = {"model": "tiny", "temperature": 0, "max_completion_tokens": 2, "stream": True}
TOKENS_PER_MESSAGE = 500
WORDS = "The river runs from the old mountain down to the wide sea, number {n}. "

Messages = list[dict[str, Any]]


def history(tokens: int) -> Messages:
    """Alternating messages of about `tokens` tokens, the last one the user's."""
    text = "".join(WORDS.format(n=n) for n in range(TOKENS_PER_MESSAGE // 18))
    count = max(1, tokens // TOKENS_PER_MESSAGE // 2) * 2 + 1
    return [{"role": ("user", "assistant")[n % 2], "content": f"{n}. {text}"} for n in range(count)]


class Bench:
    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, headers={SECRET_HEADER: SECRET}, timeout=600)

    def stock(self, messages: Messages) -> float:
        body = {**CHAT, "messages": messages, "cache_salt": "stock"}
        return self._first_token("/v1/chat/completions", json.dumps(body).encode())[0]

    def keep(self, messages: Messages) -> dict[str, Any]:
        """Send a history once; returns its reference."""
        _, receipt = self._first_token("/prefix/v1/chat", self._prefix_body(messages, None, keep=True))
        return {name: receipt[name] for name in ("ref", "hash", "tokens", "fingerprint")}

    def hit(self, reference: dict[str, Any], margin: Messages) -> tuple[float, dict[str, Any]]:
        return self._first_token("/prefix/v1/chat", self._prefix_body(margin, reference, keep=False))

    def ids_agree(self, messages: Messages, reference: dict[str, Any], margin: Messages) -> bool:
        body = self._prefix_body(margin, reference, keep=False)
        ours = self._http.post("/prefix/v1/render?ids=true", content=body).json()
        stock = self._http.post("/tokenize", json={"messages": messages}).json()
        return bool(ours["ids"] == stock["tokens"] and ours["path"] == "hit")

    @staticmethod
    def _prefix_body(messages: Messages, reference: dict[str, Any] | None, *, keep: bool) -> bytes:
        body = {
            "protocol": PROTOCOL,
            "namespace": "plugin",
            "chat": CHAT,
            "messages": messages,
            "prefix": reference,
            "commit": {"ttl_s": 3600} if keep else None,
        }
        return json.dumps(body).encode()

    def _first_token(self, path: str, body: bytes) -> tuple[float, dict[str, Any]]:
        receipt: dict[str, Any] = {}
        first, event = None, ""
        started = time.perf_counter()
        with self._http.stream(
            "POST", path, content=body, headers={"content-type": "application/json"}
        ) as answer:
            answer.raise_for_status()
            for line in answer.iter_lines():
                if first is None and line.startswith("data: ") and json.loads(line[6:])["choices"]:
                    first = time.perf_counter() - started
                if line.startswith("event: "):
                    event = line
                elif event and line.startswith("data: "):
                    receipt, event = json.loads(line[6:]), ""
        assert first is not None
        return first * 1e3, receipt


def measure(bench: Bench, tokens: int, rounds: int) -> str:
    """One row: medians over `rounds`, after one round that only warms up."""
    past = history(tokens)
    reference = bench.keep(past)
    stock, hit, before_engine = [], [], []
    for n in range(rounds + 1):
        margin = [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": f"Question {n}?"}]
        if n == 0 and not bench.ids_agree([*past, *margin], reference, margin):
            raise SystemExit(f"at {tokens} tokens the modes do not send the same ids: nothing is timed")
        if n % 2:
            stock.append(bench.stock([*past, *margin]))
        took, receipt = bench.hit(reference, margin)
        hit.append(took)
        before_engine.append(receipt["render_ms"] + receipt["tokenize_ms"])
        if not n % 2:
            stock.append(bench.stock([*past, *margin]))
    stock_ms, hit_ms, before_ms = (statistics.median(values[1:]) for values in (stock, hit, before_engine))
    return (
        f"| {reference['tokens']:>7} | {stock_ms:>8.1f} | {hit_ms:>8.1f} | {stock_ms / hit_ms:>5.2f} "
        f"| {before_ms:>6.1f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1000, 8000, 32000, 64000, 110000])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        model = tiny.make(default_model(load().data_dir, print), Path(directory) / "tiny")
        vllm = LocalVllm(
            str(model), "tiny", log_dir=Path(directory), secret=SECRET, extra_args=list(tiny.LOAD_ARGS)
        )
        vllm.start()
        try:
            vllm.wait_ready()
            bench = Bench(vllm.url)
            print("|  tokens | stock ms |   hit ms | ratio | before the engine ms |\n|---|---|---|---|---|")
            for tokens in options.tokens:
                print(measure(bench, tokens, options.rounds), flush=True)
        finally:
            vllm.stop()


if __name__ == "__main__":
    main()
