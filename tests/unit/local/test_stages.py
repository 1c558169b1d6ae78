"""What a set-up prints."""

import io
import threading
import time

import pytest

from app.local import stages
from app.local.stages import Stages


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_stage_has_a_line_for_its_start_and_one_for_its_end() -> None:
    out, clock = io.StringIO(), Clock()
    with Stages(2, out, clock).stage("Postgres") as stage:
        clock.now = 1.25
        stage.done("embedded")
    assert out.getvalue() == "[1/2] Postgres …\n[1/2] Postgres: embedded (1.2 s)\n"


def test_stages_are_numbered() -> None:
    out = io.StringIO()
    all_stages = Stages(2, out)
    for title in ("A", "B"):
        with all_stages.stage(title):
            pass
    assert "[1/2] A" in out.getvalue()
    assert "[2/2] B" in out.getvalue()


@pytest.mark.parametrize(("error", "word"), [(ValueError, "FAILED"), (KeyboardInterrupt, "stopped")])
def test_a_stage_that_broke_off_says_so(error: type[BaseException], word: str) -> None:
    out = io.StringIO()
    with pytest.raises(error), Stages(1, out).stage("A") as stage:
        stage.done("never")
        raise error
    assert f"A: {word} (" in out.getvalue()
    assert "never" not in out.getvalue()


def test_without_a_terminal_there_is_a_sign_of_life_now_and_then() -> None:
    out, clock = io.StringIO(), Clock()
    with Stages(1, out, clock).stage("A") as stage:
        stage.status("loading")
        stage.tick()
        assert "loading" not in out.getvalue()
        clock.now = stages.HEARTBEAT_S
        stage.tick()
        stage.tick()
    assert out.getvalue().count("loading  15 s\n") == 1
    assert "\r" not in out.getvalue()


def test_on_a_terminal_one_line_changes() -> None:
    out = Terminal()
    with Stages(1, out).stage("A") as stage:
        stage.status("loading " + "x" * 500)
        stage.tick()
    lines = out.getvalue().split("\r\x1b[K")
    assert all("\n" not in line for line in lines[:-1])
    assert max(map(len, lines)) < 200, "it would wrap, and could not be drawn over"
    assert lines[-1].startswith("[1/1] A: done (")


def test_the_changing_line_goes_on_by_itself() -> None:
    out = Terminal()
    with Stages(1, out).stage("A") as stage:
        stage.status("working")
        until = time.monotonic() + 120
        while "working" not in out.getvalue() and time.monotonic() < until:
            time.sleep(0.02)
    assert "working" in out.getvalue()
    assert not [thread.name for thread in threading.enumerate() if "run_ticker" in thread.name]
