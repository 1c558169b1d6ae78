"""One `serve` per data directory, and what others learn of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import SetupError
from app.local import state
from app.local.state import RunState

RUNNING = RunState(pid=7, service_url="http://127.0.0.1:8080", worker_url="http://127.0.0.1:9", secret="s")


def test_others_read_what_was_published_while_it_runs(tmp_path: Path) -> None:
    assert state.read(tmp_path) is None
    with state.claim(tmp_path) as claim:
        assert state.read(tmp_path) is None
        claim.publish(RUNNING)
        assert state.read(tmp_path) == RUNNING
    assert state.read(tmp_path) is None
    assert (tmp_path / state.FILE).read_text() == ""


def test_only_the_owner_may_read_it(tmp_path: Path) -> None:
    with state.claim(tmp_path):
        assert (tmp_path / state.FILE).stat().st_mode & 0o777 == 0o600


def test_a_second_claim_is_refused_with_the_first_ones_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "PATIENCE_S", 0.1)
    with state.claim(tmp_path) as claim:
        claim.publish(RUNNING)
        with pytest.raises(SetupError, match=r"DATA_DIR: .* process 7, http://127\.0\.0\.1:8080"):
            state.claim(tmp_path).__enter__()
    with state.claim(tmp_path):
        pass


def test_what_a_killed_one_left_is_out_of_date(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path; from app.local import state\n"
        "context = state.claim(Path(sys.argv[1])); claim = context.__enter__()\n"
        "claim.publish(state.RunState(1, 'a', 'b', 'c')); os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).resolve().parents[3]
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root)
    assert json.loads((tmp_path / state.FILE).read_text())["secret"] == "c"
    assert state.read(tmp_path) is None
    with state.claim(tmp_path):
        pass
