"""Time to the first token: the whole history to an untouched vLLM, against a reference to the plugin.

    python -m bench.ttft [--tokens 1000 8000 32000 64000 110000] [--rounds 9] [arguments for both vLLMs]

Two vLLM servers run beside each other, with the same tiny random model and Qwen3's own tokenizer and
template; only one has the plugin. Their turns alternate and change order, with the KV cache warm on both:
the first round of each is not counted. The ids that both send are compared before anything is timed, and
afterwards the tokens that both found cached. Prints medians in milliseconds and their ratio, and in
parentheses those of the best round: on a busy machine they say more.
"""

import argparse
import http.client
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from app.local.vllm import HOST, LocalVllm
from app.prefix.wire import PROTOCOL, SECRET_HEADER
from bench import tiny
from tests.parity.families import FAMILIES

SECRET = "for-benchmarks-only"
CHAT = {"model": "tiny", "temperature": 0, "max_completion_tokens": 1, "stream": True}
TOKENS_PER_MESSAGE = 500
PAUSE_S = 0.5
"""Before each request: the threads of the server that answered last spin for a while, on the same cores."""
WORDS = "The river runs from the old mountain down to the wide sea, number {n}. "
HEADING = "| tokens | stock ms | plugin ms | ratio | plugin before the engine ms |\n" + "|---" * 5 + "|"

Messages = list[dict[str, Any]]


def history(tokens: int) -> Messages:
    """Alternating messages of about `tokens` tokens, the last one the user's."""
    text = "".join(WORDS.format(n=n) for n in range(TOKENS_PER_MESSAGE // 17))
    count = max(1, tokens // TOKENS_PER_MESSAGE // 2) * 2 + 1
    return [{"role": ("user", "assistant")[n % 2], "content": f"{n}. {text}"} for n in range(count)]


class Server:
    """A connection to a vLLM server, with and without the plugin."""

    def __init__(self, port: int) -> None:
        self._http = http.client.HTTPConnection(HOST, port, timeout=600)

    def chat(self, messages: Messages) -> tuple[float, dict[str, Any]]:
        """vLLM's own route; milliseconds to the first token, and the answer's usage."""
        options = {"include_usage": True}
        body = {**CHAT, "messages": messages, "stream_options": options, "cache_salt": "n"}
        return self._first_token("/v1/chat/completions", body, lambda event: event.get("usage"))

    def prefix(
        self, messages: Messages, reference: dict[str, Any] | None, *, keep: bool = False
    ) -> tuple[float, dict[str, Any]]:
        """The plugin's route; milliseconds to the first token, and the receipt."""
        body = self._prefix_body(messages, reference, keep)
        return self._first_token("/prefix/v1/chat", body, lambda event: event if "ref" in event else None)

    def rendered(self, messages: Messages, reference: dict[str, Any]) -> dict[str, Any]:
        """What `prefix` would send to the engine."""
        return self._json("/prefix/v1/render?ids=true", self._prefix_body(messages, reference, keep=False))

    def tokenized(self, messages: Messages) -> list[int]:
        """vLLM's full render."""
        ids: list[int] = self._json("/tokenize", {"messages": messages})["tokens"]
        return ids

    @staticmethod
    def _prefix_body(messages: Messages, reference: dict[str, Any] | None, keep: bool) -> dict[str, Any]:
        return {
            "protocol": PROTOCOL,
            "namespace": "n",
            "chat": CHAT,
            "messages": messages,
            "prefix": reference,
            "commit": {"ttl_s": 3600} if keep else None,
        }

    def _post(self, path: str, encoded: bytes) -> http.client.HTTPResponse:
        headers = {"content-type": "application/json", SECRET_HEADER: SECRET}
        # A new connection each time: an idle one is closed while the other server warms up.
        self._http.close()
        self._http.request("POST", path, encoded, headers)
        answer = self._http.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise SystemExit(f"{path}: {answer.status} {answer.read().decode()}")
        return answer

    def _json(self, path: str, body: dict[str, Any]) -> Any:
        return json.loads(self._post(path, json.dumps(body).encode()).read())

    def _first_token(self, path: str, body: dict[str, Any], wanted: Any) -> tuple[float, dict[str, Any]]:
        encoded = json.dumps(body).encode()
        first, found = None, {}
        time.sleep(PAUSE_S)
        started = time.perf_counter()
        for line in self._post(path, encoded):
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if first is None and event.get("choices"):
                first = time.perf_counter() - started
            found = wanted(event) or found
        assert first is not None
        return first * 1e3, found


def measure(stock: Server, plugin: Server, tokens: int, rounds: int) -> str:
    """One row: medians over `rounds`, after one round that only warms up."""
    past = history(tokens)
    _, kept = plugin.prefix(past, None, keep=True)
    stock.chat(past)
    reference = {name: kept[name] for name in ("ref", "hash", "tokens", "fingerprint")}
    stock_ms, plugin_ms, before_ms = [], [], []
    for n in range(rounds + 1):
        margin = [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": f"Question {n}?"}]
        if n == 0:
            ours = plugin.rendered(margin, reference)
            if ours["path"] != "hit" or ours["ids"] != stock.tokenized([*past, *margin]):
                raise SystemExit(f"at {tokens} tokens the modes do not send the same ids: nothing is timed")
        if n % 2:
            stock_took, usage = stock.chat([*past, *margin])
        plugin_took, receipt = plugin.prefix(margin, reference)
        if not n % 2:
            stock_took, usage = stock.chat([*past, *margin])
        if receipt["cached_tokens"] != (usage["prompt_tokens_details"] or {}).get("cached_tokens"):
            raise SystemExit(f"one KV cache was warmer: {receipt['cached_tokens']} tokens, {usage}")
        stock_ms.append(stock_took)
        plugin_ms.append(plugin_took)
        before_ms.append(receipt["render_ms"] + receipt["tokenize_ms"])
    warm = [values[1:] for values in (stock_ms, plugin_ms, before_ms)]
    stock_mid, plugin_mid, before_mid = map(statistics.median, warm)
    stock_best, plugin_best, before_best = map(min, warm)
    return (
        f"| {reference['tokens']} "
        f"| {stock_mid:.1f} ({stock_best:.1f}) | {plugin_mid:.1f} ({plugin_best:.1f}) "
        f"| {stock_mid / plugin_mid:.2f} ({stock_best / plugin_best:.2f}) "
        f"| {before_mid:.1f} ({before_best:.1f}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1000, 8000, 32000, 64000, 110000])
    parser.add_argument("--rounds", type=int, default=9)
    options, vllm_args = parser.parse_known_args()
    model = str(FAMILIES["qwen3"].directory())
    with tempfile.TemporaryDirectory() as logs, ExitStack() as running:
        servers = []
        for name, secret in (("stock", None), ("plugin", SECRET)):
            vllm = LocalVllm(
                model,
                "tiny",
                log_dir=Path(logs),
                secret=secret,
                extra_args=[*tiny.LOAD_ARGS, *vllm_args],
                name=name,
            )
            vllm.start()
            running.callback(vllm.stop)
            vllm.wait_ready()
            servers.append(Server(vllm.port))
        print(HEADING)
        for tokens in options.tokens:
            print(measure(*servers, tokens, options.rounds), flush=True)


if __name__ == "__main__":
    main()
