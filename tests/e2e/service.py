"""Runs `marginalia serve` as a user would, and counts the processes that belong to it."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """This process' environment with none of Marginalia's settings but these."""
    ours = ("DATABASE_URL", "WORKER_URLS", "MODEL", "VLLM_ARGS", "MARGINALIA_SECRET", "PORT", "HOST")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, "DATA_DIR": str(data_dir), **settings}


def command(*args: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the console script to its end."""
    argv = [sys.executable, "-m", "app.cli", *args]
    return subprocess.run(argv, env=env, cwd=ROOT, capture_output=True, text=True, timeout=240)


def processes_of(data_dir: Path) -> dict[int, str]:
    """Processes with `data_dir` in their environment or command line, whoever started them."""
    needle = os.fsencode(str(data_dir))
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes()
            if int(entry.name) != os.getpid() and (
                needle in line or needle in (entry / "environ").read_bytes()
            ):
                found[int(entry.name)] = line.replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended meanwhile, or is a kernel's
    return found


def wait_until(true: Callable[[], object], within_s: float) -> bool:
    until = time.monotonic() + within_s
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


class Service:
    """A running `serve`. `output` grows as it prints."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        self.port = int(settings.setdefault("PORT", str(free_port())))
        self.env = environment(data_dir, **settings)
        self.output = ""
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve"],
            env=self.env,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        with self.process.stdout as lines:
            for line in lines:
                self.output += line

    def wait_for(self, text: str, within_s: float = 240.0) -> None:
        """Wait until it printed `text`; fails at once where it ended without."""
        wait_until(lambda: text in self.output or self.process.poll() is not None, within_s)
        self._reader.join(0.5)
        assert text in self.output, self.output

    def wait_ready(self) -> None:
        self.wait_for("Ctrl-C stops everything.")

    def example(self) -> str:
        """The Python program that the ready notice offers for pasting."""
        found = re.search(r"<<'END'\n(.*?)\nEND\n", self.output, re.DOTALL)
        assert found, self.output
        return found[1]

    def end(self, number: signal.Signals, within_s: float = 60.0) -> int:
        """Send a signal and return the exit status."""
        self.process.send_signal(number)
        status = self.process.wait(within_s)
        self._reader.join(30)
        return status

    def destroy(self) -> None:
        """For the end of a test, however it went."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(30)
        wait_until(lambda: not processes_of(self.data_dir), 30)
