"""`marginalia certify MODEL`: the certificate on stdout, what is being done on stderr."""

import importlib.util
import os
import sys
from pathlib import Path

import msgspec

from app.certify.model import loadable, read_template
from app.errors import SetupError

_QUIET = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "CRITICAL",
    "TRANSFORMERS_VERBOSITY": "critical",
    # Set and empty means none: no other plugin has a part in this.
    "VLLM_PLUGINS": "",
}


def run(model: Path, chat_template: Path | None, *, turns: int, seed: int, as_json: bool) -> int:
    """Print the certificate; 0 where it is exact, else 1. Raises SetupError."""
    if importlib.util.find_spec("vllm") is None:
        raise SetupError(
            "vLLM is not installed in this environment",
            hint="`make run` without WORKER_URLS installs it; or run this where your vLLM is.",
        )
    os.environ |= _QUIET
    template = read_template(chat_template) if chat_template else None
    with loadable(model) as directory:
        _say("loading vLLM")
        try:
            from app.certify.certify import certify
            from app.certify.report import report
        except ImportError as exc:
            raise SetupError(
                f"The plugin does not fit the vLLM that is installed: {exc}",
                hint="Install a version that pyproject.toml names, in the extras `cpu` and `gpu`.",
            ) from exc
        certificate = certify(directory, model.resolve().name, template, turns=turns, seed=seed, say=_say)
    print(msgspec.json.encode(certificate).decode() if as_json else report(certificate))
    return 0 if certificate.exact else 1


def _say(status: str) -> None:
    print(f"{status} …", file=sys.stderr, flush=True)
