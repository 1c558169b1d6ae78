"""What vLLM's log tells a user. The lines are vLLM 0.32's own."""

from pathlib import Path

import pytest

from app.local.vllm_log import failure, progress

LOG = Path("vllm.log")


@pytest.mark.parametrize(
    ("line", "doing"),
    [
        ("", "importing"),
        ("(APIServer pid=1) INFO 11-22 23:03:13 [a.py:286] non-default args: {}", "reading the model's"),
        (
            "(APIServer pid=1) WARNING 11-22 [vllm.py:1703] Enforce eager set, disabling torch.compile",
            "importing",
        ),
        ("(EngineCore pid=2) INFO 11-22 [core.py:133] Initializing a V1 LLM engine (v0.32.0)", "the engine"),
        ("(Worker pid=3) INFO 11-22 [a.py:68] Starting to load model /x...", "loading weights"),
        ("(EngineCore pid=2) INFO 11-22 [k.py:1] CPU KV cache size: 46,592 tokens", "warming up"),
    ],
)
def test_progress_is_the_furthest_stage(line: str, doing: str) -> None:
    assert doing in progress(line)


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("api_server.py: error: unrecognized arguments: --x", "VLLM_ARGS"),
        ("(APIServer pid=1) OSError: [Errno 98] Address already in use", "port"),
        ("(EngineCore pid=2) ERROR 11-22 23:03:42 [core.py:1] MemoryError: x", "memory"),
        ("OSError: foo/bar is not a local folder and is not a valid model identifier", "MODEL"),
        ("ValueError: To serve at least one request, 4.5 GiB KV cache is needed", "VLLM_CPU_KVCACHE_SPACE"),
        ("ImportError: libnuma.so.1: cannot open shared object file", "libnuma"),
        ("ModuleNotFoundError: No module named 'xgrammar'", "make clean"),
    ],
)
def test_a_death_says_why_and_what_to_do(line: str, hint: str) -> None:
    error = failure(f"(APIServer pid=1) INFO 11-22 23:03:13 [a.py:1] hello\n{line}\nbye", LOG, 1)
    assert hint in error.hint
    assert "exit status 1" in error.message
    assert "hello" not in error.message
    assert "pid=" not in error.message


def test_what_a_value_error_says_is_shown() -> None:
    output = (
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
        "  Value error, User-specified max_model_len (900000) is greater than the derived one\n"
    )
    error = failure(output, LOG, 1)
    assert "greater than the derived" in error.message
    assert "VLLM_ARGS" in error.hint


def test_a_process_that_was_killed_without_a_word() -> None:
    error = failure("Loading safetensors\n", LOG, 137)
    assert "Loading safetensors" in error.message
    assert "memory" in error.hint
