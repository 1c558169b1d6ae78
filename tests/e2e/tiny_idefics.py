"""A tiny random model that sees images: Idefics3, as SmolVLM has it, with SmolLM2's tokenizer.

Of the architectures with images one that runs without torchvision. An image is scaled to the longest edge and
cut into tiles; of each tile, and of the whole, it makes 64 tokens. So a square is more tokens than a strip.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from bench import tiny

LOAD_ARGS = ("--load-format", "dummy", "--max-model-len", "4096")
_TILE_PX, _LONGEST_PX, _PATCH_PX, _SCALE = 32, 64, 2, 2
_IMAGE = "<image>"
_CELLS = tuple(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2))
_ADDED = (_IMAGE, "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *_CELLS)

_CHAT_TEMPLATE = """\
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for part in message.content -%}
            {{- '<image>' if part.type == 'image' else part.text -}}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def make(tokenizer_dir: Path, target: Path) -> Path:
    """Write the model's configuration beside the tokenizer in `tokenizer_dir` with tokens for images."""
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy(tokenizer_dir / "tokenizer_config.json", target)
    image_id = _add_tokens(tokenizer_dir / "tokenizer.json", target / "tokenizer.json")
    (target / "chat_template.jinja").write_text(_CHAT_TEMPLATE)
    tiny.write_config(target, "llama", "LlamaForCausalLM")
    text = json.loads((target / "config.json").read_text())
    _write(target / "config.json", _config(text, image_id))
    _write(target / "preprocessor_config.json", _PREPROCESSOR)
    _write(target / "processor_config.json", _PROCESSOR)
    return target


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


def _add_tokens(source: Path, target: Path) -> int:
    """Returns the id of an image's token."""
    tokenizer = json.loads(source.read_text())
    first = max(max(tokenizer["model"]["vocab"].values()), *(t["id"] for t in tokenizer["added_tokens"])) + 1
    tokenizer["added_tokens"] += [
        {
            "id": first + at,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for at, token in enumerate(_ADDED)
    ]
    _write(target, tokenizer)
    return first + _ADDED.index(_IMAGE)


def _config(text: dict[str, Any], image_id: int) -> dict[str, Any]:
    return {
        "architectures": ["Idefics3ForConditionalGeneration"],
        "model_type": "idefics3",
        "text_config": text,
        "vision_config": {
            "model_type": "idefics3_vision",
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": _TILE_PX,
            "patch_size": _PATCH_PX,
        },
        "image_token_id": image_id,
        "scale_factor": _SCALE,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
    }


_PREPROCESSOR = {
    # Of the two that transformers has the one without torchvision.
    "image_processor_type": "Idefics3ImageProcessorPil",
    "size": {"longest_edge": _LONGEST_PX},
    "max_image_size": {"longest_edge": _TILE_PX},
}
_PROCESSOR = {
    "processor_class": "Idefics3Processor",
    "image_seq_len": (_TILE_PX // _PATCH_PX // _SCALE) ** 2,
}
