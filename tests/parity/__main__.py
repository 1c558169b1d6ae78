# ruff: noqa: T201 (a command)
"""`python -m tests.parity [family ...] [--turns 20000] [--seed 0] [--live]`: the big number, as a table."""

import argparse
import time
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.parity import live
from tests.parity.conversations import Conversation, conversations
from tests.parity.families import FAMILIES
from tests.parity.offline import Offline
from tests.parity.play import Difference, Tally, play

EXAMPLES_PER_ROUND = 100
COLUMNS = ("turns", "hit", "rewind", "full", "reseed", "refused", "prefix_miss", "prefix_expired")


def run(name: str, turns: int, first_seed: int, *, through_vllm: bool) -> tuple[Tally, int]:
    """Plays until so many turns were compared; a difference is printed, shrunk (offline), and counted."""
    worker: Any = live.Live(FAMILIES[name]) if through_vllm else Offline(FAMILIES[name])
    play_on: Any = live.play if through_vllm else play
    tally, differences = Tally(), 0
    started, number = time.monotonic(), first_seed
    while tally.counts["turns"] < turns:

        @seed(number)
        @settings(
            max_examples=EXAMPLES_PER_ROUND,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            # A running model does not say the same twice.
            phases=[Phase.generate] if through_vllm else [Phase.generate, Phase.shrink],
        )
        @given(conversations(FAMILIES[name]))
        def one_round(conversation: Conversation) -> None:
            play_on(worker, tally, conversation)

        try:
            one_round()
        except* Difference as found:
            differences += len(found.exceptions)
            print(f"{name}: DIFFERENCE in the round of seed {number}: {found.exceptions}", flush=True)
        number += 1
        print(f"{name}: {tally.counts['turns']} turns, {differences} differences, "
              f"{time.monotonic() - started:.0f} s", flush=True)  # fmt: skip
    worker.close()
    return tally, differences


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.parity", description=__doc__)
    parser.add_argument("family", nargs="*", choices=[*FAMILIES, []], help="default: all")
    parser.add_argument("--turns", type=int, default=20_000, help="per family")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--live", action="store_true", help="through a running vLLM")
    arguments = parser.parse_args()
    results = {
        name: run(name, arguments.turns, arguments.seed, through_vllm=arguments.live)
        for name in arguments.family or FAMILIES
    }
    columns = (*COLUMNS, "reused", "sampled ids", "differences")
    print(f"\n{'family':<12}" + "".join(f"{column:>16}" for column in columns))
    for name, (tally, differences) in results.items():
        counts = "".join(f"{tally.counts[column]:>16}" for column in COLUMNS)
        reused = f"{tally.reused / max(1, tally.tokens):>16.1%}"
        print(f"{name:<12}{counts}{reused}{tally.sampled:>16}{differences:>16}")
    raise SystemExit(1 if any(differences for _, differences in results.values()) else 0)


if __name__ == "__main__":
    main()
