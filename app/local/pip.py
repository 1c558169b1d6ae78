"""Runs pip with live progress, and turns its failures into one clear message.

Standard library only: `bootstrap` uses it before anything is installed.
"""

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread

from app.errors import SetupError

LAST_LINES = 12
LINE_LENGTH = 300
INDEX_HINT = "Is the package index reachable? Check the network and the proxy (HTTPS_PROXY, PIP_INDEX_URL)."
HINTS = (
    (r"No space left on device|Disk quota exceeded", "Free some disk space (the CPU build needs 6 GB)."),
    (r"name resolution|NewConnectionError|Network is unreachable|[a-z]TimeoutError|ProxyError", INDEX_HINT),
    (
        r"torch==\S*cpu",
        "This needs PyTorch's CPU build, which PyPI does not carry: let this machine reach "
        "https://download.pytorch.org/whl/cpu, or put that wheel into a directory and name it in "
        "PIP_FIND_LINKS.",
    ),
    (r"No matching distribution", INDEX_HINT),
    (r"Permission denied", "Make the directory writable for you, or remove it."),
    (r"do not match the hashes", "Clear pip's cache: pip cache purge."),
)


def run_pip(
    python: Path,
    args: Sequence[str],
    *,
    log: Path,
    scratch: Path,
    status: Callable[[str], None],
    failure: str,
) -> None:
    """Run `pip args` with `python`, its output appended to `log`; temporary files go to `scratch`.

    Raises SetupError beginning with `failure`, with the last lines of the output.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    # Besides letting us see downloads grow, this keeps gigabytes out of a /tmp that is held in memory.
    env = {**os.environ, "TMPDIR": str(scratch), "PYTHONUNBUFFERED": "1", "PIP_NO_INPUT": "1"}
    command = [str(python), "-m", "pip", *args, "--disable-pip-version-check"]
    with log.open("a") as out:
        print("$", *command, file=out, flush=True)
        lines: list[str] = []
        # No group of its own: Ctrl-C on a terminal reaches pip as well.
        with (
            subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=env,
            ) as process,
            _Progress(python, scratch, status) as progress,
        ):
            assert process.stdout
            try:
                for line in process.stdout:
                    out.write(line)
                    lines.append(line.rstrip())
                    progress.see(line)
            except BaseException:
                process.kill()
                raise
    code = process.returncode
    if code:
        raise pip_error(failure, lines, log)


def pip_error(failure: str, lines: Sequence[str], log: Path) -> SetupError:
    """What went wrong according to pip's output, and what to do about it."""
    tail = [line[:LINE_LENGTH] for line in lines if line.strip() and not line.startswith("[notice]")]
    text = "\n".join(tail[-LAST_LINES:])
    hint = next((hint for pattern, hint in HINTS if re.search(pattern, text)), "Read the whole log.")
    errors = [line for line in tail if line.lower().lstrip().startswith("error")]
    # "ERROR: Exception:" is followed by a traceback, of which only the end says anything.
    shown = "".join(f"\n    {line}" for line in dict.fromkeys([*errors, *tail[-1:]]))
    return SetupError(f"{failure}:{shown}\n  The whole log: {log}", hint=hint)


class _Progress:
    """What pip is doing, from its output, the growth of its temporary files and of site-packages."""

    def __init__(self, python: Path, scratch: Path, status: Callable[[str], None]) -> None:
        self._site = python.parent.parent / "lib"
        self._scratch, self._status = scratch, status
        self._doing = ""
        self._goal = 0
        self._stop = Event()
        self._thread = Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "_Progress":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def see(self, line: str) -> None:
        """Take one line of pip's output."""
        doing = condense(line)
        if doing is None:
            return
        self._doing = doing
        if line.startswith("Installing collected packages:"):
            self._goal = line.count(",") + 1 + self._distributions()
        self._show()

    def _watch(self) -> None:
        while not self._stop.wait(1.0):
            self._show()

    def _show(self) -> None:
        if self._goal:
            self._status(f"{self._doing}, {self._distributions()} of about {self._goal}")
        elif (size := self._downloaded()) > 1_000_000:
            self._status(f"{self._doing}, {size / 1e6:.0f} MB so far")
        elif self._doing:
            self._status(self._doing)

    def _distributions(self) -> int:
        return sum(1 for _ in self._site.glob("python*/site-packages/*.dist-info"))

    def _downloaded(self) -> int:
        try:
            return sum(path.stat().st_size for path in self._scratch.glob("pip-*/*"))
        except OSError:
            return 0  # pip removes its files and directories while we look


def condense(line: str) -> str | None:
    """A line of pip's output as a few words; None where it says nothing about the progress."""
    text = line.strip()
    if found := re.match(r"(Collecting|Processing|Obtaining) (\S+)", text):
        name = found[2].rsplit("/", 1)[-1]
        return "looking up " + re.split(r"[<>=!~;\[-]", name, maxsplit=1)[0]
    if found := re.match(r"(?:Downloading|Using cached) (\S+)( \([\d.]+ \wB\))?", text):
        verb = "downloading" if text.startswith("D") else "taking"
        return f"{verb} {found[1].rsplit('/', 1)[-1].split('-', 1)[0]}{found[2] or ''}"
    if text.startswith("Installing collected packages:"):
        return "installing"
    if text.startswith(("Installing build dependencies", "Building", "Preparing metadata")):
        return text.split(":", 1)[0].split(" (")[0].lower()
    return None
