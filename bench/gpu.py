"""`bench.ttft` with a model of a real size on one GPU, and many conversations at once.

    python -m bench.gpu MODEL OUT [--pair 16 128] [--crowd] [--split] [--responses] [--rounds 9]

MODEL: a directory with config.json and the tokenizer; weights are random, the time does not depend on them.
--pair: stock vLLM and one with the plugin share the GPU, as in bench.ttft, once per block size. --crowd: 12
conversations on each alone, because the KV cache of so many does not fit twice. Rows are printed, and every
value goes to OUT/results.jsonl as it comes: device time is short, and what was measured must not be lost.
"""

import argparse
import importlib.metadata
import json
import platform
import time
from pathlib import Path
from typing import Any

from bench import crowd, split, ttft
from bench.client import Server, history
from bench.servers import PLUGIN, STOCK, running

PAUSE_S = 0.2
TOKENS = [1600, 15300, 61000, 114500]
"""Of bench.client's words: about 1.6k, 16k, 64k and 120k tokens of Qwen3's."""
MAX_TOKENS = 131_072
BASE = ["--load-format", "dummy", "--max-model-len", str(MAX_TOKENS), "--max-num-seqs", "32"]
"""32: fewer sizes to capture graphs for, a quicker start."""
MEMORY = ["--gpu-memory-utilization", "0.3", "--kv-cache-memory-bytes"]
"""The first is only looked at before the start; given the second, nothing is tried out."""
KV_OF_A_PAIR, KV_ALONE = 19_600_000_000, 31_000_000_000
"""The Qwen3-8B shape takes 147,456 bytes a token: 132k tokens, and 210k."""
CONVERSATIONS, CROWD_TOKENS, CROWD_RUNS, CROWD_TURNS, CROWD_BLOCK = 12, 15_300, 3, 6, "16"


class Results:
    """Prints what people read, and writes everything."""

    def __init__(self, directory: Path) -> None:
        self._file = (directory / "results.jsonl").open("a")
        self._began = time.monotonic()

    def put(self, kind: str, line: str, **record: Any) -> None:
        at_s = round(time.monotonic() - self._began, 1)
        print(line or f"[{at_s} s] {kind} {record}", flush=True)
        self._file.write(json.dumps({"kind": kind, "at_s": at_s, **record}) + "\n")
        self._file.flush()


def pair(options: argparse.Namespace, block: int, results: Results) -> None:
    arguments = [*BASE, "--block-size", str(block), *MEMORY, str(KV_OF_A_PAIR)]
    with running(options.model, (STOCK, PLUGIN), arguments, options.logs, at_once=True) as servers:
        stock, plugin = (Server(server.port, PAUSE_S) for server in servers)
        results.put("ready", "", block=block, info=plugin.info(), arguments=arguments)
        responses = options.responses and _continues_responses(stock, results)
        print(ttft.HEADING)
        for tokens in options.tokens:
            row = ttft.measure(stock, plugin, tokens, options.rounds, responses=responses)
            results.put("ttft", row.line(), block=block, row=json.loads(row.json()))


def _continues_responses(stock: Server, results: Results) -> bool:
    try:
        stock.respond("Yes?", stock.stored(history(1000)))
    except SystemExit as refused:
        results.put("no responses", "", error=str(refused))
        return False
    return True


def alone(options: argparse.Namespace, results: Results) -> None:
    arguments = [*BASE, "--block-size", CROWD_BLOCK, *MEMORY, str(KV_ALONE)]
    print(crowd.HEADING)
    for name, prepared in ((STOCK, crowd.whole_histories), (PLUGIN, crowd.references)):
        with running(options.model, (name,), arguments, options.logs, at_once=True) as (server,):
            conversations = prepared(server.port, CONVERSATIONS, options.crowd_tokens)
            crowd.run(name, conversations, 0, 1)
            for number in range(CROWD_RUNS):
                made = crowd.run(name, conversations, 1 + number * CROWD_TURNS, CROWD_TURNS)
                results.put("crowd", made.line(), crowd=made.record())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("model")
    parser.add_argument("out", type=Path)
    parser.add_argument("--pair", type=int, nargs="*", default=[16, 128], metavar="BLOCK_SIZE")
    parser.add_argument("--crowd", action="store_true")
    parser.add_argument("--split", action="store_true", help="rendering, proof, tokenization, outside vLLM")
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS)
    parser.add_argument("--crowd-tokens", type=int, default=CROWD_TOKENS)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--responses", action="store_true", help="also vLLM's own previous_response_id")
    parser.add_argument("--logs", type=Path, default=Path("/tmp/bench-gpu"))
    options = parser.parse_args()
    results = Results(options.out)
    versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers", "tokenizers")}
    results.put("machine", "", python=platform.python_version(), cpu=platform.processor(), **versions)
    for block in options.pair:
        pair(options, block, results)
    if options.split:
        print(split.HEADING)
        for tokens in options.tokens:
            parts = split.measure(options.model, tokens, options.rounds)
            results.put("split", parts.line(), split=parts._asdict())
    if options.crowd:
        alone(options, results)


if __name__ == "__main__":
    main()
