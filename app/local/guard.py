"""A child process that never outlives the processes that need it, not even after their `kill -9`.

    owner 1 --LOCK_SH--.
    owner 2 --LOCK_SH--+-- lock file --waits for LOCK_EX-- guard -- child

Each owner holds a shared flock, which the kernel releases however the owner ends. A guard, this file run
as a script, is the child's parent and waits for the exclusive lock: once it gets it nobody needs the child
any more, and the guard stops it. While it is stopping the child it keeps the lock, so a new owner waits
until the old child is gone. `<lock>.guard` is locked for as long as the guard lives.

    python guard.py LOCK STOP_SIGNAL GRACE_SECONDS [--user UID] [--group GID] -- command…

Standard library only: it must run with any interpreter, whatever the working directory.
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

LOG_LIMIT_BYTES = 5_000_000
NO_SUCH_COMMAND = 127
OTHER_GUARD = 75


class Guarded:
    """An owner's hold on the child behind `lock`. Not safe for use by several threads at once."""

    def __init__(self, lock: Path) -> None:
        self._lock = lock
        self._fd: int | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def hold(self) -> None:
        """Become an owner. Waits while a guard is stopping a child that lost its owners."""
        if self._fd is None:
            fd = _open_lock(self._lock)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH)
            except BaseException:
                os.close(fd)
                raise
            self._fd = fd

    def start(
        self,
        argv: Sequence[str | Path],
        *,
        log: Path,
        stop_signal: signal.Signals = signal.SIGTERM,
        grace_s: float = 10.0,
        env: Mapping[str, str] | None = None,
        user: int | None = None,
        group: int | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Become an owner and start a guard with `argv` as its child; a no-op where a guard already lives.

        The child's stdout and stderr are appended to `log`. `user` and `group` are ids that the child,
        not the guard, gets; it then has no supplementary groups.
        """
        self.hold()
        if self.alive():
            return
        command = [sys.executable, "-I", "-S", str(Path(__file__).resolve())]
        command += [str(self._lock.absolute()), stop_signal.name, str(grace_s)]
        command += [f"--user={user}"] if user is not None else []
        command += [f"--group={group}"] if group is not None else []
        big = log.exists() and log.stat().st_size > LOG_LIMIT_BYTES
        with log.open("wb" if big else "ab") as output:
            self._guard = subprocess.Popen(
                [*command, "--", *map(str, argv)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=env,
                cwd=cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int | None:
        """The guard's process id, where this object started it."""
        return self._guard.pid if self._guard else None

    @property
    def returncode(self) -> int | None:
        """The child's exit status, 128 + n after signal n; None while it runs or where another started it."""
        return self._guard.poll() if self._guard else None

    def alive(self) -> bool:
        """Whether a guard, no matter whose, runs for this lock."""
        if self._guard is not None and self._guard.poll() is None:
            return True
        return _is_held(_guard_lock(self._lock))

    def stop(self) -> None:
        """Give up the hold; where it was the last one, return only once child and guard have ended."""
        if self._fd is None:
            return
        last = _try(self._fd, fcntl.LOCK_EX)
        # The attempt gave up the shared lock, so the guard may have come first: then nobody else holds one.
        last = last or not _try(self._fd, fcntl.LOCK_SH)
        os.close(self._fd)
        self._fd = None
        if last:
            if self._guard is not None:
                self._guard.wait()
            _wait_until_free(_guard_lock(self._lock))


def _guard_lock(lock: Path) -> Path:
    return lock.with_name(lock.name + ".guard")


def _open_lock(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _try(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_held(path: Path) -> bool:
    fd = _open_lock(path)
    try:
        return not _try(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def _wait_until_free(path: Path) -> None:
    fd = _open_lock(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


# --- the guard process ---------------------------------------------------------------------------------

Events = SimpleQueue[str]
"""`exited`: the child ended; `stop`: no owner is left, or the guard itself was asked to end."""


def _die_with_parent(stop: signal.Signals) -> Callable[[], None] | None:
    """For the child: on Linux the kernel stops it even if the guard itself is killed with -9."""
    if not sys.platform.startswith("linux"):
        return None
    pr_set_pdeathsig = 1
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(pr_set_pdeathsig, int(stop), 0, 0, 0)


def _listen_for_signals(events: Events) -> None:
    def ask_to_stop(*_: Any) -> None:
        events.put("stop")

    def ignore(*_: Any) -> None:
        """A handler, not SIG_IGN: the child would inherit that."""

    signal.signal(signal.SIGTERM, ask_to_stop)
    signal.signal(signal.SIGINT, ignore)
    signal.signal(signal.SIGHUP, ignore)


def _watch(child: subprocess.Popen[bytes], lock_fd: int, events: Events) -> None:
    def child_exit() -> None:
        child.wait()
        events.put("exited")

    def no_owner() -> None:
        fcntl.flock(lock_fd, fcntl.LOCK_EX)
        events.put("stop")

    # Threads inherit the mask. A signal that the kernel hands to one of them would not wake the main
    # thread from its wait, and Python runs handlers nowhere else.
    old_mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    for target in (child_exit, no_owner):
        threading.Thread(target=target, daemon=True).start()
    signal.pthread_sigmask(signal.SIG_SETMASK, old_mask)


def _stop(child: subprocess.Popen[bytes], stop: signal.Signals, grace_s: float) -> None:
    child.send_signal(stop)
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        print(f"guard: no exit {grace_s:g} s after {stop.name}, sending SIGKILL", file=sys.stderr, flush=True)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _claim(fd: int) -> bool:
    # Retried, because `alive()` in some owner locks this file for an instant.
    for _ in range(100):
        if _try(fd, fcntl.LOCK_EX):
            return True
        time.sleep(0.01)
    return False


def _guard(args: argparse.Namespace, command: list[str]) -> int:
    stop = signal.Signals[args.stop_signal]
    claim_fd = _open_lock(_guard_lock(args.lock))
    if not _claim(claim_fd):
        print("guard: another one runs for this lock", file=sys.stderr)
        return OTHER_GUARD
    events: Events = SimpleQueue()
    _listen_for_signals(events)
    try:
        child = subprocess.Popen(
            command,
            start_new_session=True,
            user=args.user,
            group=args.group,
            extra_groups=None if args.user is None else [],
            preexec_fn=_die_with_parent(stop),
        )
    except OSError as exc:
        print(f"guard: cannot start {command[0]}: {exc}", file=sys.stderr)
        return NO_SUCH_COMMAND
    _watch(child, _open_lock(args.lock), events)
    if events.get() == "stop":
        _stop(child, stop, args.grace_s)
    # What the child started and left behind must not outlive it either.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    # Before the exit frees the owners' lock: a new owner then must not take this guard for a living one.
    os.close(claim_fd)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _main() -> int:
    parser = argparse.ArgumentParser(description="Run a command for as long as a lock file has owners.")
    parser.add_argument("lock", type=Path)
    parser.add_argument("stop_signal", choices=[s.name for s in signal.Signals])
    parser.add_argument("grace_s", type=float)
    parser.add_argument("--user", type=int)
    parser.add_argument("--group", type=int)
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    return _guard(parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :])


if __name__ == "__main__":
    sys.exit(_main())
