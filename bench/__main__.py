"""Full history against cache references, with the peers, in one run.

    python -m bench [run] [--quick] [--only SCENARIO …] [--modes MODE …] [--out DIRECTORY]
    python -m bench run --gpu MODEL [-- arguments for vLLM]
    python -m bench report FILE
    python -m bench compare FILE FILE

`run` writes results.json, report.md and plots to DIRECTORY; `report` makes the last two again. What is
measured, and how: docs/benchmarks.md.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import compare
from bench.engines import ON_A_CPU, names
from bench.modes import ALL
from bench.records import Run
from bench.runner import run, written


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    given = list(sys.argv[1:] if argv is None else argv)
    if not given or (given[0].startswith("-") and given[0] not in ("-h", "--help")):
        given = ["run", *given]
    options = _parser().parse_args(given)
    return int(options.command(options))


def _report(options: argparse.Namespace) -> int:
    written(Run.load(options.file), options.file.parent)
    return 0


def _compare(options: argparse.Namespace) -> int:
    print(compare.text(Run.load(options.a), Run.load(options.b)))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__.splitlines()[0] if __doc__ else ""
    )
    commands = parser.add_subparsers(required=True)
    measure = commands.add_parser("run", help="measure, and write results, tables and plots")
    measure.add_argument("--quick", action="store_true", help="minutes instead of an hour")
    measure.add_argument("--only", nargs="+", metavar="SCENARIO", help=", ".join(names(ON_A_CPU)))
    measure.add_argument("--modes", nargs="+", choices=list(ALL), default=list(ALL))
    measure.add_argument("--out", type=Path, default=Path("bench-results"))
    measure.add_argument("--gpu", type=Path, metavar="MODEL", help="a model's directory; weights are random")
    measure.add_argument("vllm", nargs="*", help="with --gpu, after --: arguments for vLLM")
    measure.set_defaults(command=run)
    again = commands.add_parser("report", help="make tables and plots of a results file again")
    again.add_argument("file", type=Path)
    again.set_defaults(command=_report)
    two = commands.add_parser("compare", help="what moved between two results files")
    two.add_argument("a", type=Path)
    two.add_argument("b", type=Path)
    two.set_defaults(command=_compare)
    return parser


if __name__ == "__main__":
    sys.exit(main())
