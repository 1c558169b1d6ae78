"""What a running `serve` tells others on this machine: where its vLLM is, and the secret for it.

`<data_dir>/serve.json`, readable by its owner only. Its flock says whether the `serve` that wrote it still
runs, whatever became of it; the same flock keeps a second one off the data directory's vLLM.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from app.errors import SetupError

FILE = "serve.json"
PATIENCE_S = 2.0


@dataclass(frozen=True, slots=True)
class RunState:
    """The local parts of a running service."""

    pid: int
    service_url: str
    worker_url: str
    secret: str


class Claim:
    """This process' hold on the data directory."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def publish(self, state: RunState) -> None:
        """Tell others, in place: a new file would have another lock."""
        data = json.dumps(asdict(state)).encode()
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, data, 0)


@contextmanager
def claim(data_dir: Path) -> Iterator[Claim]:
    """Be the only `serve` with a local vLLM on `data_dir`; SetupError where another one is."""
    data_dir.mkdir(parents=True, exist_ok=True)
    fd = os.open(data_dir / FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        until = time.monotonic() + PATIENCE_S  # the other may be `doctor`, having a look
        while not _lock(fd, fcntl.LOCK_EX):
            if time.monotonic() > until:
                other = read(data_dir)
                raise SetupError(
                    f"DATA_DIR: another Marginalia runs on {data_dir}"
                    + (f", process {other.pid}, {other.service_url}" if other else ""),
                    hint="Stop that one, or give this one a DATA_DIR and a PORT of its own.",
                )
            time.sleep(0.05)
        os.ftruncate(fd, 0)
        yield Claim(fd)
        os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def read(data_dir: Path) -> RunState | None:
    """What the running `serve` published; None where none runs or it has not got that far."""
    try:
        fd = os.open(data_dir / FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        if _lock(fd, fcntl.LOCK_SH):
            return None  # nobody holds it: whatever it says is out of date
        return RunState(**json.loads(os.read(fd, 65536)))
    except (ValueError, TypeError):
        return None
    finally:
        os.close(fd)


def _lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
