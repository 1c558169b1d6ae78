"""A Postgres of our own for those who bring none: started on demand, stopped with its last user.

    <data_dir>/postgres/data        the cluster (the server's user, 0700)
                        log         what the server prints
                        lock        a shared flock per process that uses the server (guard.py)
                        start.lock  held while a process makes or starts the cluster
    /tmp/marginalia-<hash>/         the socket (the server's user, 0700); there is no TCP port

Any number of processes may use one data directory; the first starts the server, the last one out stops it.
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

import asyncpg  # type: ignore[import-untyped]

from app.errors import SetupError
from app.local import binaries
from app.local.binaries import Account, Binaries
from app.local.guard import Guarded

READY_SECONDS = 60.0
"""A crash with much WAL takes a while to recover from."""
RESTART_SECONDS = 15.0
"""How long the remains of a server that died may be in the way of a new one."""
STOP_GRACE_SECONDS = 30.0
POLL_SECONDS = 0.03
LOG_TAIL_LINES = 20
REMAINS_OF_ANOTHER = ("lock file", "shared memory block")


class EmbeddedPostgres:
    """The server of one data directory. Blocking; start it before the event loop or in a thread."""

    name = "Postgres"

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.absolute()
        self._home = self._data_dir / "postgres"
        self._data = self._home / "data"
        self._log = self._home / "log"
        self._socket_dir = _socket_dir(self._data)
        self._guarded = Guarded(self._home / "lock")

    def start(self) -> str:
        """Make the cluster if there is none, start the server unless it runs, and return its URL.

        Raises SetupError, with the end of the server's log where there is one.
        """
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            with self._starting():
                self._start()
        except OSError as exc:
            raise self._error(f"Postgres cannot use {self._home}: {exc}") from exc
        return f"postgresql+asyncpg://postgres@/postgres?host={quote(str(self._socket_dir))}&port=5432"

    def alive(self) -> bool:
        """Whether the server runs, ready or not."""
        return self._guarded.alive()

    def restart(self, give_up: threading.Event) -> float:
        """`start` once more after the server died; returns the seconds it took. It is never long."""
        del give_up
        began = time.monotonic()
        self.start()
        return time.monotonic() - began

    def stop(self) -> None:
        """Leave the server; where nobody else uses it, return once it has ended. Idempotent."""
        if not self._home.exists():
            return
        with self._starting():
            self._guarded.stop()
            # Fails, as it should, while the server of another process has its socket there.
            with contextlib.suppress(OSError):
                self._socket_dir.rmdir()

    def __enter__(self) -> str:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.stop()

    @contextlib.contextmanager
    def _starting(self) -> Iterator[None]:
        with (self._home / "start.lock").open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def _start(self) -> None:
        self._guarded.hold()
        try:
            if not (self._guarded.alive() and self._await_ready()):
                account = binaries.server_account()
                self._check_reachable(account)
                found = binaries.find(self._cluster_major(), account, self._home)
                self._make_socket_dir(account)
                self._make_cluster(found, account)
                self._launch(found, account)
        except BaseException:
            self._guarded.stop()
            raise

    def _check_reachable(self, account: Account | None) -> None:
        """Try it for real: modes alone know nothing of ACLs and mounts."""
        if account is None:
            return
        for directory in reversed((self._home, *self._home.parents)):
            try:
                entered = binaries.run_as(account, ["/bin/sh", "-c", 'cd "$0"', str(directory)])
            except PermissionError as exc:
                raise self._error(
                    "Postgres does not run as root, and this process may not change user"
                ) from exc
            if entered.returncode:
                raise SetupError(
                    f"Postgres, which as root runs as `{account.name}`, cannot enter {directory}.",
                    hint=f"Set DATA_DIR to another place, or: chmod o+x {directory}",
                )

    def _cluster_major(self) -> int | None:
        version = self._data / "PG_VERSION"
        if not self._data.exists():
            return None
        if not version.exists():
            raise self._error(f"{self._data} is not a Postgres cluster: it has no PG_VERSION")
        # "9.6" was the last version of two numbers.
        return int(version.read_text().split(".")[0])

    def _make_socket_dir(self, account: Account | None) -> None:
        path = self._socket_dir
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=0o700)
        owner = os.geteuid() if account is None else account.uid
        status = path.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (os.geteuid(), owner):
            raise SetupError(
                f"{path}, where Postgres' socket should be, belongs to somebody else.",
                hint=f"Remove {path}, or set DATA_DIR to another place.",
            )
        path.chmod(0o700)
        if account is not None:
            os.chown(path, account.uid, account.gid)

    def _make_cluster(self, found: Binaries, account: Account | None) -> None:
        if self._data.exists():
            return
        partial = self._data.with_suffix(".tmp")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700)
        if account is not None:
            os.chown(partial, account.uid, account.gid)
        # The wheels are built without ICU. Nobody gets in but through the socket's directory.
        options = ["-U", "postgres", "-E", "UTF8", "--no-locale", "--auth-local=trust", "--auth-host=reject"]
        made = binaries.run_as(account, [str(found.bin / "initdb"), "-D", str(partial), *options])
        if made.returncode:
            raise self._error(f"initdb failed: {made.stderr.strip()}")
        partial.rename(self._data)

    def _launch(self, found: Binaries, account: Account | None) -> None:
        """Start the server; again, for a while, where one that is just ending is in the way."""
        give_up = time.monotonic() + RESTART_SECONDS
        argv: list[str | Path] = [found.bin / "postgres", "-D", self._data, "-k", self._socket_dir]
        while True:
            printed_before = self._log.stat().st_size if self._log.exists() else 0
            self._guarded.start(
                [*argv, "-p", "5432", "-c", "listen_addresses="],
                log=self._log,
                stop_signal=signal.SIGINT,
                grace_s=STOP_GRACE_SECONDS,
                env=binaries.environment(),
                user=account.uid if account else None,
                group=account.gid if account else None,
                cwd=Path("/"),
            )
            if self._await_ready():
                return
            log = self._log.read_bytes()
            # It is shorter than before where the guard found it too long.
            printed = log[printed_before if len(log) >= printed_before else 0 :].decode(errors="replace")
            in_the_way = any(words in printed for words in REMAINS_OF_ANOTHER)
            if not in_the_way or time.monotonic() > give_up:
                raise self._error(f"Postgres ended with status {self._guarded.returncode}")
            time.sleep(0.2)

    def _await_ready(self) -> bool:
        """Whether the server answers now; False where it ended."""
        give_up = time.monotonic() + READY_SECONDS
        while not _answers(self._socket_dir):
            if not self._guarded.alive():
                return False
            if time.monotonic() > give_up:
                raise self._error(f"Postgres did not answer within {READY_SECONDS:g} s")
            time.sleep(POLL_SECONDS)
        # What answered may have been another server, in the way of ours.
        return self._guarded.alive()

    def _error(self, message: str) -> SetupError:
        tail = ""
        with contextlib.suppress(OSError):
            lines = self._log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
            tail = "\n".join([f"\nEnd of {self._log}:", *lines]) if lines else ""
        return SetupError(
            message + tail, hint="Set DATA_DIR to another place, or DATABASE_URL to a Postgres."
        )


def _socket_dir(data: Path) -> Path:
    """The same for every process that uses `data`, whatever its TMPDIR; a socket's path has ~100 bytes."""
    name = f"marginalia-{hashlib.sha256(os.fsencode(data.resolve())).hexdigest()[:16]}"
    tmp = Path("/tmp")
    return (tmp if os.access(tmp, os.W_OK) else Path(tempfile.gettempdir())) / name


def _answers(socket_dir: Path) -> bool:
    """Whether `SELECT 1` works; in a thread of its own, because the caller may be inside an event loop."""
    answer: list[bool] = []
    thread = threading.Thread(target=lambda: answer.append(asyncio.run(_select_one(socket_dir))))
    thread.start()
    thread.join()
    return answer == [True]


async def _select_one(socket_dir: Path) -> bool:
    try:
        connection = await asyncpg.connect(
            host=str(socket_dir), port=5432, user="postgres", database="postgres", timeout=2, ssl=False
        )
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False
    try:
        return bool(await connection.fetchval("SELECT 1") == 1)
    finally:
        await connection.close()
