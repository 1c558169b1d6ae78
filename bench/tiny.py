"""A tiny random model with a real tokenizer: long histories become testable on a CPU.

Two layers of 64, so that what is measured is what vLLM does around the model.
"""

import json
import shutil
from pathlib import Path

MAX_TOKENS = 131_072
LOAD_ARGS = ("--load-format", "dummy", "--max-model-len", str(MAX_TOKENS))


def make(tokenizer_dir: Path, target: Path) -> Path:
    """Write the model's configuration beside a copy of the tokenizer in `tokenizer_dir`."""
    target.mkdir(parents=True, exist_ok=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if (tokenizer_dir / name).exists():
            shutil.copy(tokenizer_dir / name, target / name)
    write_config(target)
    return target


def write_config(directory: Path, model_type: str = "qwen3", architecture: str = "Qwen3ForCausalLM") -> None:
    """Write config.json beside the tokenizer.json in `directory`."""
    vocabulary = json.loads((directory / "tokenizer.json").read_text())["model"]["vocab"]
    config = {
        "architectures": [architecture],
        "model_type": model_type,
        "vocab_size": max(vocabulary.values()) + 1024,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "max_position_embeddings": MAX_TOKENS,
        "rope_theta": 1_000_000.0,
        "rms_norm_eps": 1e-6,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }
    (directory / "config.json").write_text(json.dumps(config))
