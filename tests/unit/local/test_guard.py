"""The guard with real processes: whatever happens to the owners, the child ends."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.local.guard import Guarded

ROOT = Path(__file__).parents[3]
SLEEP = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('up', flush=True); time.sleep(600)",
]
DEAF_UNTIL = [
    sys.executable,
    "-c",
    "import os, signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('up', flush=True)\n"
    "while not os.path.exists(sys.argv[1]): time.sleep(0.01)",
]
LEAVES_GRANDCHILD = [
    sys.executable,
    "-c",
    "import subprocess, sys; p = subprocess.Popen(['sleep', '600'])\n"
    "print('pid', p.pid, flush=True); sys.exit(3)",
]
OWNER = """
import sys, time
from pathlib import Path
from app.local.guard import Guarded
g = Guarded(Path(sys.argv[1]))
if len(sys.argv) > 3:
    g.start(sys.argv[3:], log=Path(sys.argv[2]), grace_s=60)
else:
    g.hold()
print("ready", flush=True)
sys.stdin.read()
g.stop()
"""


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what must come; pytest's own timeout ends a wait in vain."""
    while not condition():
        time.sleep(0.01)


def ended(pid: int) -> bool:
    """Whether process `pid` is gone; a zombie that nobody has reaped counts as gone."""
    done = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return done.stdout.strip() in ("", "Z", "Zs")


def children(pid: int) -> list[int]:
    done = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True, check=False)
    return [int(p) for p in done.stdout.split()]


def child_of(guarded: Guarded, log: Path) -> int:
    """The child's pid, once it has written its first line."""
    eventually(lambda: log.exists() and "up" in log.read_text())
    assert guarded.pid is not None
    (pid,) = children(guarded.pid)
    return pid


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return tmp_path / "lock"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


class Owner:
    """An owner in a process of its own, so that it can be killed."""

    def __init__(self, lock: Path, log: Path, argv: list[str]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(lock), str(log), *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == b"ready\n"

    def close(self) -> None:
        self.process.communicate()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


MakeOwner = Callable[..., Owner]


@pytest.fixture
def owner(lock: Path, log: Path) -> Iterator[MakeOwner]:
    made: list[Owner] = []

    def make(argv: list[str] | None = None) -> Owner:
        made.append(Owner(lock, log, argv or []))
        return made[-1]

    yield make
    for one in made:
        one.kill()


def test_stop_ends_the_child_and_is_idempotent(lock: Path, log: Path) -> None:
    guarded = Guarded(lock)
    guarded.start(SLEEP, log=log)
    child = child_of(guarded, log)
    assert guarded.alive()
    assert guarded.returncode is None
    guarded.stop()
    guarded.stop()
    assert ended(child)
    assert not guarded.alive()
    assert guarded.returncode == 128 + signal.SIGTERM


def test_stop_without_start_does_nothing(lock: Path) -> None:
    Guarded(lock).stop()


def test_owner_killed_ends_the_child(lock: Path, log: Path, owner: MakeOwner) -> None:
    first = owner(SLEEP)
    eventually(lambda: log.exists() and "up" in log.read_text())
    (guard,) = children(first.process.pid)
    (child,) = children(guard)
    first.kill()
    eventually(lambda: ended(child) and ended(guard))
    assert not Guarded(lock).alive()


def test_child_lives_until_the_last_of_two_owners(lock: Path, log: Path, owner: MakeOwner) -> None:
    mine = Guarded(lock)
    mine.start(SLEEP, log=log)
    child = child_of(mine, log)
    other = owner()
    mine.stop()
    assert not ended(child)
    assert mine.alive()
    other.close()
    assert ended(child), "the last owner's stop() returns only when the child is gone"


def test_owner_that_did_not_start_the_guard_keeps_the_child(lock: Path, log: Path, owner: MakeOwner) -> None:
    first = owner(SLEEP)
    mine = Guarded(lock)
    mine.hold()
    eventually(lambda: log.exists() and "up" in log.read_text())
    (guard,) = children(first.process.pid)
    (child,) = children(guard)
    first.kill()
    assert mine.alive()
    assert not ended(child)
    mine.stop()
    assert ended(child)


def test_start_beside_a_living_guard_starts_nothing(lock: Path, log: Path, owner: MakeOwner) -> None:
    owner(SLEEP)
    eventually(lambda: log.exists() and "up" in log.read_text())
    mine = Guarded(lock)
    mine.start(SLEEP, log=log)
    assert mine.pid is None
    mine.stop()
    assert log.read_text() == "up\n"


def test_a_child_deaf_to_the_signal_is_killed(lock: Path, log: Path) -> None:
    guarded = Guarded(lock)
    guarded.start(DEAF, log=log, grace_s=0.2)
    child = child_of(guarded, log)
    guarded.stop()
    assert ended(child)
    assert guarded.returncode == 128 + signal.SIGKILL
    assert "SIGKILL" in log.read_text()


def test_the_childs_own_exit_code_and_no_grandchild_left(lock: Path, log: Path) -> None:
    guarded = Guarded(lock)
    guarded.start(LEAVES_GRANDCHILD, log=log)
    eventually(lambda: guarded.returncode is not None)
    assert guarded.returncode == 3
    assert not guarded.alive()
    eventually(lambda: ended(int(log.read_text().split()[1])))
    guarded.stop()


def test_sigint_leaves_the_guard_alone_and_sigterm_stops_the_child(lock: Path, log: Path) -> None:
    guarded = Guarded(lock)
    guarded.start(SLEEP, log=log)
    child = child_of(guarded, log)
    assert guarded.pid is not None
    os.kill(guarded.pid, signal.SIGINT)
    os.kill(guarded.pid, signal.SIGHUP)
    os.kill(guarded.pid, signal.SIGTERM)
    eventually(lambda: not guarded.alive())
    assert ended(child)
    assert guarded.returncode == 128 + signal.SIGTERM
    guarded.stop()


def test_the_child_may_still_receive_sigint(lock: Path, log: Path) -> None:
    guarded = Guarded(lock)
    guarded.start(SLEEP, log=log, stop_signal=signal.SIGINT, grace_s=60)
    child_of(guarded, log)
    guarded.stop()
    assert "KeyboardInterrupt" in log.read_text()


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="the kernel's parent-death signal is Linux's"
)
def test_guard_killed_ends_the_child(lock: Path, log: Path) -> None:
    guarded = Guarded(lock)
    guarded.start(SLEEP, log=log)
    child = child_of(guarded, log)
    assert guarded.pid is not None
    os.kill(guarded.pid, signal.SIGKILL)
    eventually(lambda: ended(child))
    guarded.stop()


def test_a_command_that_does_not_exist(lock: Path, log: Path) -> None:
    guarded = Guarded(lock)
    guarded.start(["/nonexistent/command"], log=log)
    eventually(lambda: guarded.returncode is not None)
    assert guarded.returncode == 127
    assert "/nonexistent/command" in log.read_text()
    guarded.stop()


def test_a_new_owner_waits_for_the_old_child_to_end(lock: Path, log: Path, owner: MakeOwner) -> None:
    go = lock.with_name("go")
    first = owner([*DEAF_UNTIL, str(go)])
    eventually(lambda: log.exists() and "up" in log.read_text())
    (guard,) = children(first.process.pid)
    (old,) = children(guard)
    first.kill()
    eventually(lambda: guard_is_stopping(lock))
    assert not ended(old)
    threading.Timer(0.5, go.touch).start()
    mine = Guarded(lock)
    mine.start(SLEEP, log=log)
    assert ended(old)
    assert mine.alive()
    mine.stop()


def guard_is_stopping(lock: Path) -> bool:
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False
