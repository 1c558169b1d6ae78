"""Making the environment: what is done, what is left out the second time, what is said when it fails."""

import contextlib
import socket
import subprocess
import sys
import threading
import venv
from pathlib import Path

import pytest

from app.errors import SetupError
from app.local import install
from app.local.target import STAMP, Target

ROOT = Path(__file__).resolve().parents[3]
CPU = Target(frozenset({"cpu", "model"}))
BARE = Target(frozenset())


BACKEND = """
import zipfile

WHEEL = "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"

def build_editable(directory, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(f"{directory}/bare-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("bare-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: bare\\nVersion: 1\\n")
        wheel.writestr("bare-1.dist-info/WHEEL", WHEEL)
        wheel.writestr("bare-1.dist-info/RECORD", "")
    return "bare-1-py3-none-any.whl"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project without dependencies, built by a backend that needs no network."""
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "bare"\nversion = "1"\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (tmp_path / "backend.py").write_text(BACKEND)
    return tmp_path


def test_a_second_install_does_nothing(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    install.install(project, project / ".venv", BARE)
    assert "[3/3] Packages: " in capsys.readouterr().out
    log = (project / ".venv" / "install.log").read_text()
    install.install(project, project / ".venv", BARE)
    assert capsys.readouterr().out == "Environment: .venv is up to date.\n"
    assert (project / ".venv" / "install.log").read_text() == log


def test_a_failed_install_is_done_again(project: Path) -> None:
    (project / "backend.py").write_text("raise RuntimeError('broken backend')\n")
    with pytest.raises(SetupError, match="Installing the packages failed"):
        install.install(project, project / ".venv", BARE)
    assert not (project / ".venv" / STAMP).exists()
    (project / "backend.py").write_text(BACKEND)
    install.install(project, project / ".venv", BARE)
    assert (project / ".venv" / STAMP).exists()


def test_a_stamp_does_not_outlive_the_start_of_an_install(project: Path) -> None:
    install.install(project, project / ".venv", BARE)
    (project / "backend.py").write_text("raise RuntimeError('broken backend')\n")
    with pytest.raises(SetupError):
        install.install(project, project / ".venv", Target(frozenset({"more"})))
    assert not (project / ".venv" / STAMP).exists()


@pytest.fixture(scope="module")
def working_venv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("venvs") / ".venv"
    venv.create(path, with_pip=True)
    return path


def test_a_working_environment_is_kept(working_venv: Path) -> None:
    (working_venv / "kept").touch()
    assert "exists" in install.make_venv(working_venv, CPU)
    assert (working_venv / "kept").exists()


def test_one_of_the_wrong_kind_is_made_anew_and_sees_the_gpu_vllm(working_venv: Path, tmp_path: Path) -> None:
    (tmp_path / "vllm_seen.py").write_text("")
    assert "made" in install.make_venv(working_venv, Target(frozenset({"model"}), vllm_site=tmp_path))
    assert not (working_venv / "kept").exists()
    subprocess.run([working_venv / "bin" / "python", "-c", "import vllm_seen"], check=True)


def test_a_venv_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SetupError, match="cannot make a virtual environment") as caught:
        install.make_venv(tmp_path / "file" / ".venv", CPU)
    assert "venv" in caught.value.hint


def test_an_index_that_never_gets_to_the_end_costs_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then satisfies every time limit of the socket's."""

    over = threading.Event()

    def drip(server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\nX-Patience: ")
                while not over.wait(0.1):
                    connection.sendall(b".")

    monkeypatch.setattr(install, "INDEX_PATIENCE_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(install, "CPU_INDEX", f"http://127.0.0.1:{port}/whl/cpu")
        dripping = threading.Thread(target=drip, args=(server,))
        dripping.start()
        assert install.extra_index(CPU) == []
        over.set()
        dripping.join()


def test_an_index_that_answers_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    index = tmp_path / "cpu"
    index.touch()
    monkeypatch.setattr(install, "CPU_INDEX", index.as_uri())
    assert install.extra_index(CPU) == ["--extra-index-url", index.as_uri()]


def test_the_index_is_asked_only_for_the_cpu_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "INDEX_PATIENCE_S", -1.0)
    assert install.extra_index(BARE) == []


def test_the_script_runs_with_nothing_installed() -> None:
    """With -S and -I no third-party package can be found; app/local must not hide the standard library."""
    script = str(ROOT / "app" / "local" / "bootstrap.py")
    ran = subprocess.run([sys.executable, "-I", "-S", script, "--help"], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    code = f"import sys; sys.path[:] = [{str(ROOT)!r}, *sys.path]; import app.local.install"
    ran = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
