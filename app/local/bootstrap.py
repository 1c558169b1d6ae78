"""Makes `.venv` and installs Marginalia into it, once: `python3 app/local/bootstrap.py [--dev] [--bench]`.

Any Python will do to start it: one that is too old or too new looks for another and hands over. The work
is in `install`, which is imported only after that, as an older Python could not even read it.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST, NEWEST = (3, 11), (3, 14)  # what vLLM's CPU build 0.32 is made for


def main() -> int:
    """Make the environment; 0 once it is complete, 1 with a message where it cannot be."""
    parser = argparse.ArgumentParser(description="Set up Marginalia's virtual environment.")
    parser.add_argument("--dev", action="store_true", help="also install what the tests need")
    parser.add_argument("--bench", action="store_true", help="also install what the benchmarks need")
    args = parser.parse_args()
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        return _run_with_another_python()
    # Run as a script, Python puts app/local first, where vllm.py and others would hide real packages.
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    from app.local.install import set_up

    return set_up(frozenset(extra for extra in ("dev", "bench") if getattr(args, extra)))


def _run_with_another_python() -> int:
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        other = shutil.which(f"python3.{minor}")
        if other and subprocess.call([other, "-c", ""], stderr=subprocess.DEVNULL) == 0:
            return subprocess.call([other, *sys.argv])
    print(f"Python {sys.version.split()[0]} cannot be used.", file=sys.stderr)
    print("  Install Python 3.11 to 3.14, or name one: make PYTHON=/path/to/python3.12 run", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
