"""Reads vLLM's log: how far it is, and why it died."""

import re
from pathlib import Path

from app.errors import SetupError

STAGES = (
    (r"Application startup complete|Started server process", "opening the port"),
    (r"Capturing CUDA graph|Graph capturing", "capturing CUDA graphs"),
    (r"torch\.compile took|Compiling a graph|Dynamo bytecode", "compiling"),
    (r"KV cache size|# (?:CPU|GPU) blocks", "warming up"),
    (r"Loading weights took|Model loading took", "making room for the KV cache"),
    (r"Starting to load model|Loading safetensors|Loading weights", "loading weights"),
    (r"Initializing a V1 LLM engine", "starting the engine"),
    (r"non-default args|vLLM API server version", "reading the model's configuration"),
)
"""What a line in the log says is being done; the furthest first."""

HINTS = (
    (
        r"unrecognized arguments|max_model_len \(|expected (?:one|at least one) argument|invalid choice",
        "Correct VLLM_ARGS; .venv/bin/python -m vllm.entrypoints.openai.api_server --help lists them.",
    ),
    (r"[Aa]ddress already in use", "Another process took the port just now: start again."),
    (
        r"KV cache is needed|larger than the maximum number of tokens|memory for the cache|KV cache memory",
        'Give it more room, VLLM_CPU_KVCACHE_SPACE=4 (GiB), or less: VLLM_ARGS="--max-model-len 8192".',
    ),
    (
        r"out of memory|OutOfMemory|MemoryError|[Cc]annot allocate memory|Free memory on device",
        "Free some memory, take a smaller MODEL, or less room: VLLM_CPU_KVCACHE_SPACE or VLLM_ARGS.",
    ),
    (
        r"not a valid model identifier|RepositoryNotFound|couldn't connect|LocalEntryNotFound|offline mode",
        "Is MODEL right, and can the hub be reached? A directory with the model works without a network.",
    ),
    (
        r"model type|architectures .* are not supported",
        "This vLLM cannot serve that model: choose another MODEL.",
    ),
    (r"libnuma", "Install the system library libnuma (Debian, Ubuntu: apt install libnuma1)."),
    (r"ModuleNotFoundError|ImportError", "The installation is damaged: make clean, then make run."),
)
PREFIX = re.compile(r"^(\([^)]*pid=\d+\)\s*)?((ERROR|WARNING|INFO) \S+ \S+ (\[\S+\])?\s?)?")
DECISIVE = re.compile(
    r"^(api_server\.py: error|[\w.]*(Error|Exception|Interrupt)\b|guard: |\s+Value error, )"
)
KILLED = 137
LAST_LINES = 8
LINE_LENGTH = 400


def progress(output: str) -> str:
    """What vLLM is doing just now."""
    return next((text for pattern, text in STAGES if re.search(pattern, output)), "importing")


def failure(output: str, log: Path, returncode: int | None) -> SetupError:
    """The error for a vLLM that died with `returncode` after writing `output`."""
    lines = [PREFIX.sub("", line).rstrip()[:LINE_LENGTH] for line in output.splitlines()]
    decisive = list(dict.fromkeys(line for line in lines if DECISIVE.match(line)))
    shown = decisive[:LAST_LINES] or [line for line in lines if line][-LAST_LINES:]
    text = "\n".join(shown)
    hint = next((hint for pattern, hint in HINTS if re.search(pattern, text)), "Read the whole log.")
    if returncode == KILLED and not decisive:
        hint = "It was killed, most likely for want of memory: take a smaller MODEL, or free some memory."
    status = "" if returncode is None else f" (exit status {returncode})"
    body = "".join(f"\n    {line}" for line in shown)
    return SetupError(f"vLLM ended{status}:{body}\n  The whole log: {log}", hint=hint)
