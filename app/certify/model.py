"""Which directory vLLM loads: a model's own, or one made around a tokenizer that has no config.json.

Needs no vLLM: what is wrong here is said before it is loaded.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from app.errors import SetupError

_CONFIG = {
    "architectures": ["Phi3ForCausalLM"],
    # transformers takes tokenizer.json as it is for this one, whatever class tokenizer_config.json names.
    "model_type": "phi3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 131_072,
    "torch_dtype": "bfloat16",
}
_ROOM = 1024
"""Ids above the vocabulary's last: added tokens."""


class Template(NamedTuple):
    """A chat template that stands in for the tokenizer's own."""

    name: str
    text: str


@contextmanager
def loadable(model: Path) -> Iterator[Path]:
    """A directory that vLLM loads in the place of `model`, for as long as the context lasts.

    Raises SetupError that names what is missing.
    """
    if not model.is_dir():
        raise SetupError(f"{model} is {'a file' if model.exists() else 'no directory'}", hint=_wanted(model))
    if not (model / "tokenizer.json").exists():
        raise SetupError(
            f"{model} has no tokenizer.json",
            hint="Continuing needs a fast tokenizer. From other tokenizer files, transformers makes one: "
            "`AutoTokenizer.from_pretrained(…).save_pretrained(…)`.",
        )
    if (model / "config.json").exists():
        yield model
        return
    with tempfile.TemporaryDirectory(prefix="marginalia-certify-") as made:
        for file in model.iterdir():
            (Path(made) / file.name).symlink_to(file.absolute())
        (Path(made) / "config.json").write_text(json.dumps({**_CONFIG, "vocab_size": _vocabulary(model)}))
        yield Path(made)


def _vocabulary(model: Path) -> int:
    try:
        vocabulary = json.loads((model / "tokenizer.json").read_text())["model"]["vocab"]
        # Unigram tokenizers list their pieces, all others number them.
        numbers = vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
        return int(max(numbers, default=0)) + _ROOM
    except (ValueError, LookupError, TypeError) as exc:
        raise SetupError(
            f"{model / 'tokenizer.json'} is no tokenizer: {exc}", hint="Fetch the file again."
        ) from exc


def _wanted(model: Path) -> str:
    wanted = (
        "Name a directory with tokenizer.json and, where there is one, config.json; weights are not needed."
    )
    if model.exists() or model.is_absolute() or len(model.parts) != 2:
        return wanted
    return f"{wanted} From the hub: `hf download {model} --include '*.json' '*.jinja' --local-dir DIR`."


def read_template(file: Path) -> Template:
    """The chat template in `file`. Raises SetupError."""
    try:
        return Template(file.name, file.read_text())
    except (OSError, UnicodeError) as exc:
        raise SetupError(f"--chat-template: {exc}", hint="Name a file that holds a Jinja template.") from exc
