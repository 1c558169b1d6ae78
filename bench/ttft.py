"""Time to the first token: the whole history to an untouched vLLM, against a reference to the plugin.

    python -m bench.ttft [--tokens 1000 8000 32000 64000 110000] [--rounds 9] [arguments for both vLLMs]

Two vLLM servers run beside each other, with the same tiny random model and Qwen3's own tokenizer and
template; only one has the plugin. Their turns alternate and change order, with the KV cache warm on both:
the first round of each is not counted. The ids that both engines were given and the greedy answers are
compared before anything is timed, and in each round the tokens that both found cached. Prints medians in
milliseconds and their ratio, and in parentheses those of the best round: on a busy machine they say more.
`bench.gpu` does the same with a model of a real size.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path

from bench import tiny
from bench.client import Messages, Reference, Server, history, question, reference_of
from bench.servers import PLUGIN, STOCK, running
from tests.parity.families import FAMILIES

PAUSE_S = 0.5
"""Before each request: the threads of the server that answered last spin for a while, on the same cores."""
COMPARED_TOKENS = 16
"""Of the greedy answers."""
HEADING = (
    "| tokens | stock ms | plugin ms | ratio | plugin before the engine: render ms | prove, tokenize ms "
    "| same greedy answer | stock /v1/responses ms |\n" + "|---" * 8 + "|"
)


@dataclass
class Row:
    """What was timed at one length, in milliseconds, one value per counted round."""

    tokens: int
    cached_tokens: int | None
    same_answer: bool
    """The greedy answers, of which vLLM says that they may differ in the last bit."""
    stock: list[float] = field(default_factory=list)
    plugin: list[float] = field(default_factory=list)
    render: list[float] = field(default_factory=list)
    tokenize: list[float] = field(default_factory=list)
    responses: list[float] = field(default_factory=list)
    other_first_tokens: int = 0
    """Rounds in which the two did not say the same."""

    def line(self) -> str:
        """As a row under HEADING."""
        ratios = [ratio(self.stock) / ratio(self.plugin) for ratio in (statistics.median, min)]
        cells = [self.tokens, _cell(self.stock), _cell(self.plugin), f"{ratios[0]:.2f} ({ratios[1]:.2f})"]
        cells += [_cell(self.render), _cell(self.tokenize), "yes" if self.same_answer else "no"]
        return "| " + " | ".join(map(str, [*cells, _cell(self.responses)])) + " |"

    def json(self) -> str:
        return json.dumps(asdict(self))


def _cell(values: list[float]) -> str:
    return f"{statistics.median(values):.1f} ({min(values):.1f})" if values else "-"


def measure(stock: Server, plugin: Server, tokens: int, rounds: int, *, responses: bool = False) -> Row:
    """One row, over `rounds` after one that only warms up.

    `responses`: also vLLM's own previous_response_id, on the untouched server.
    """
    past = history(tokens)
    reference = reference_of(plugin.prefix(past, None, keep=True).receipt)
    stock.chat(past)
    row = compare(stock, plugin, past, reference)
    previous = stock.stored(past) if responses else ""
    for n in range(rounds + 1):
        margin = question(n)
        if n % 2:
            theirs = stock.chat([*past, *margin])
        ours = plugin.prefix(margin, reference)
        if not n % 2:
            theirs = stock.chat([*past, *margin])
        row.cached_tokens = ours.receipt["cached_tokens"]
        if row.cached_tokens != theirs.cached_tokens:
            raise SystemExit(
                f"one KV cache was warmer: {row.cached_tokens} and {theirs.cached_tokens} tokens"
            )
        answer = stock.respond(f"Question {n}?", previous) if responses else None
        if not n:
            continue
        row.stock.append(theirs.first_ms)
        row.plugin.append(ours.first_ms)
        row.render.append(ours.receipt["render_ms"])
        row.tokenize.append(ours.receipt["tokenize_ms"])
        row.responses += [answer.first_ms] if answer else []
        row.other_first_tokens += theirs.text != ours.text
    return row


def compare(stock: Server, plugin: Server, past: Messages, reference: Reference) -> Row:
    """An empty row. Raises SystemExit unless both engines are given the ids of vLLM's full render."""
    margin = question(0)
    theirs, their_answer = stock.sampled([*past, *margin], COMPARED_TOKENS)
    ours, our_answer = plugin.prefix_sampled(margin, reference, COMPARED_TOKENS)
    if not ours == theirs == stock.tokenized([*past, *margin]):
        raise SystemExit(f"at {len(theirs)} tokens the engines are not given the same ids: nothing is timed")
    return Row(len(ours), None, same_answer=our_answer == their_answer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tokens", type=int, nargs="+", default=[1000, 8000, 32000, 64000, 110000])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--responses", action="store_true", help="also vLLM's own previous_response_id")
    options, vllm_args = parser.parse_known_args()
    model = str(FAMILIES["qwen3"].directory())
    arguments = [*tiny.LOAD_ARGS, *vllm_args]
    with (
        tempfile.TemporaryDirectory() as logs,
        running(model, (STOCK, PLUGIN), arguments, Path(logs), at_once=False) as servers,
    ):
        stock, plugin = (Server(server.port, PAUSE_S) for server in servers)
        print(HEADING)
        for tokens in options.tokens:
            row = measure(stock, plugin, tokens, options.rounds, responses=options.responses)
            print(row.line(), flush=True)


if __name__ == "__main__":
    main()
