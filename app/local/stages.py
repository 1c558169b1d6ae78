"""Stages of a set-up on the console: what is being done, how far it is, how long it took.

    [2/4] Packages: installing, 43 of 178  71 s      <- on a terminal, one line that changes
    [2/4] Packages: 178 installed (98.2 s)

Where the output is no terminal, a line for the start, one for the end, and a sign of life in between.
Standard library only: `bootstrap` prints its stages before anything is installed.
"""

import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

REDRAW_S = 0.25
HEARTBEAT_S = 15.0


class Stage:
    """One stage under way. `status` may be called from any thread."""

    def __init__(self, head: str, out: TextIO, live: bool, clock: Callable[[], float]) -> None:
        self._head, self._out, self._live, self._clock = head, out, live, clock
        self._began = clock()
        self._printed = self._began
        self._status = ""
        self._result = "done"
        self._lock = threading.Lock()
        self._ended = threading.Event()

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._began

    def status(self, text: str) -> None:
        """What the stage is doing just now."""
        self._status = text

    def done(self, text: str) -> None:
        """What the stage's last line will say it did."""
        self._result = text

    def tick(self) -> None:
        """Redraw the changing line, or print a sign of life when one is due."""
        with self._lock:
            if self._ended.is_set():
                return
            if self._live:
                self._out.write("\r\x1b[K" + self._line()[: shutil.get_terminal_size().columns - 1])
                self._out.flush()
            elif self._clock() - self._printed >= HEARTBEAT_S:
                self._printed = self._clock()
                print("      ", self._line(), file=self._out, flush=True)

    def run_ticker(self) -> None:
        while not self._ended.wait(REDRAW_S):
            self.tick()

    def announce(self) -> None:
        if not self._live:
            print(f"{self._head} …", file=self._out, flush=True)

    def end(self, result: str | None = None) -> None:
        with self._lock:
            self._ended.set()
            clear = "\r\x1b[K" if self._live else ""
            result = result or self._result
            print(f"{clear}{self._head}: {result} ({self.elapsed_s:.1f} s)", file=self._out, flush=True)

    def _line(self) -> str:
        doing = f": {self._status}" if self._status else ""
        return f"{self._head}{doing}  {self.elapsed_s:.0f} s"


class Stages:
    """Numbers the stages of one set-up, `total` of them, and prints them."""

    def __init__(
        self, total: int, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._total = total
        self._count = 0
        self._out = out or sys.stdout
        self._clock = clock

    @contextmanager
    def stage(self, title: str) -> Iterator[Stage]:
        """Print `title` as the next stage, and on leaving how it ended and how long it took."""
        self._count += 1
        head = f"[{self._count}/{self._total}] {title}"
        stage = Stage(head, self._out, self._out.isatty(), self._clock)
        stage.announce()
        ticker = threading.Thread(target=stage.run_ticker, daemon=True)
        ticker.start()
        try:
            yield stage
        except KeyboardInterrupt:
            stage.end("stopped")
            raise
        except BaseException:
            stage.end("FAILED")
            raise
        else:
            stage.end()
        finally:
            ticker.join()
