"""A model of nothing but a small tokenizer: the template is what a test is about."""

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "CRITICAL"}

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from app.certify.model import loadable
from app.certify.offline import Offline


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One token per byte, and a few added ones; neither a config.json nor a chat template."""
    directory = tmp_path_factory.mktemp("tokenizer")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={letter: n for n, letter in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    for token in ("<|im_start|>", "<|im_end|>", "<|im_end|>\n"):
        backend.add_tokens([AddedToken(token, normalized=False, special=True)])
    backend.add_tokens([AddedToken("<|pad|>", lstrip=True, normalized=False, special=True)])
    backend.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizerFast"}))
    return directory


@pytest.fixture(scope="session")
def worker(tokenizer_dir: Path) -> Iterator[Offline]:
    with loadable(tokenizer_dir) as directory:
        worker = Offline(directory)
        yield worker
        worker.close()
