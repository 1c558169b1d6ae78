"""Installs what this machine needs into `.venv`, once, and shows how far it is.

Standard library only. A second run sees by the stamp that all is there and needs no network; an install
that was broken off has no stamp and is done again.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from app.errors import SetupError
from app.local import target as targets
from app.local.pip import run_pip
from app.local.stages import Stages

ROOT = Path(__file__).resolve().parents[2]
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
INDEX_PATIENCE_S = 3.0
# vLLM's CPU build drags in PyPI's builds of these. They belong to a torch for GPUs: beside the CPU build of
# torch they fail at import, which vLLM takes for a broken install; where they are missing it does without.
MISFITS = ("torchvision", "torchaudio", "torchcodec")


def set_up(more: frozenset[str]) -> int:
    """Bring `.venv` to what this machine needs, and the extras `more`; returns the exit status."""
    # Like Ctrl-C: what has been started must not go on alone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        gpu = targets.gpu_visible()
        site = targets.gpu_vllm_site() if gpu else None
        target = targets.choose(more, gpu=gpu, vllm_site=site, environ=os.environ)
        with _alone():
            install(ROOT, ROOT / ".venv", target)
    except SetupError as exc:
        print(f"\nSet-up failed. {exc.message}\n  What to do: {exc.hint}", file=sys.stderr)
        return 1
    except OSError as exc:
        print(f"\nSet-up failed. {exc}", file=sys.stderr)
        print("  What to do: check the free disk space and the rights on this directory.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command goes on from here.", file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One bootstrap at a time: `make run` and `make test` may be started together."""
    lock = os.open(ROOT / "pyproject.toml", os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("Another set-up is running here; waiting for it …", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def install(root: Path, venv: Path, target: targets.Target) -> None:
    """Bring `venv` to `target`; raises SetupError where that fails."""
    if target.note:
        print(target.note, flush=True)
    if targets.is_installed(venv, root, target):
        print(f"Environment: {venv.name} is up to date.", flush=True)
        return
    stages = Stages(total=3)
    (venv / targets.STAMP).unlink(missing_ok=True)
    with stages.stage("Virtual environment") as stage:
        stage.done(make_venv(venv, target))
    python, log = venv / "bin" / "python", venv / "install.log"
    scratch = venv / "tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    with stages.stage("Package indexes") as stage:
        index = extra_index(target)
        stage.done("PyPI and PyTorch's CPU index" if index else "the configured ones")
    with stages.stage("Packages") as stage:
        wanted = str(root) + (f"[{','.join(sorted(target.extras))}]" if target.extras else "")
        args = ["install", "--progress-bar=off", "-e", wanted, *index]
        failure = "Installing the packages failed"
        run_pip(python, args, log=log, scratch=scratch, status=stage.status, failure=failure)
        if "cpu" in target.extras:
            args = ["uninstall", "--yes", *MISFITS]
            run_pip(python, args, log=log, scratch=scratch, status=stage.status, failure=failure)
        shutil.rmtree(scratch, ignore_errors=True)
        count = sum(1 for _ in venv.glob("lib/python*/site-packages/*.dist-info"))
        stage.done(f"{count} installed")
    targets.write_stamp(venv, root, target)


def make_venv(venv: Path, target: targets.Target) -> str:
    """Create the virtual environment, or keep a working one of the right kind; says which."""
    version = ".".join(map(str, sys.version_info[:3]))
    shared = target.vllm_site is not None
    if _venv_fits(venv, version, shared):
        return f"{venv.name} exists, Python {version}"
    command = [sys.executable, "-m", "venv", "--clear", str(venv)]
    command += ["--system-site-packages"] if shared else []
    made = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if made.returncode:
        shutil.rmtree(venv, ignore_errors=True)
        raise SetupError(
            f"Python cannot make a virtual environment:\n{made.stdout.strip()}", hint=_venv_hint()
        )
    if target.vllm_site:
        # vLLM may live in a virtual environment of its own, which --system-site-packages does not show.
        site = next(venv.glob("lib/python*/site-packages"))
        (site / "gpu_vllm.pth").write_text(f"{target.vllm_site}\n")
    return f"{venv.name} made, Python {version}"


def _venv_fits(venv: Path, version: str, shared: bool) -> bool:
    try:
        config = (venv / "pyvenv.cfg").read_text()
    except OSError:
        return False
    if f"include-system-site-packages = {str(shared).lower()}" not in config:
        return False
    check = [str(venv / "bin" / "python"), "-c", "import pip, sys; print('%d.%d.%d' % sys.version_info[:3])"]
    try:
        return subprocess.run(check, capture_output=True, text=True).stdout.strip() == version
    except OSError:
        return False


def _venv_hint() -> str:
    short = ".".join(map(str, sys.version_info[:2]))
    return f"On Debian and Ubuntu: apt install python{short}-venv. Else check the free disk space."


def extra_index(target: targets.Target) -> list[str]:
    """pip's arguments for PyTorch's CPU index; empty where it is of no use or does not answer in time."""
    if "cpu" not in target.extras:
        return []
    answered: list[bool] = []

    def ask() -> None:
        with contextlib.suppress(OSError), urllib.request.urlopen(CPU_INDEX, timeout=INDEX_PATIENCE_S):
            answered.append(True)

    # A thread, since looking up the name has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(INDEX_PATIENCE_S)
    return ["--extra-index-url", CPU_INDEX] if answered else []
