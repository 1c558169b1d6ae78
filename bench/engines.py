"""The vLLM servers that a run starts, one after the other, and the scenarios that each is for."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from app.local.model import DEFAULT_VLLM_ARGS
from bench import tiny
from bench.rounds import Rounds
from bench.scale import Scale
from bench.scenarios import branch, crowd, growing, kvcached, memory, real, restart, shared, store, tools
from tests.parity.families import FAMILIES


class Scenario(Protocol):
    """A module of bench.scenarios."""

    @property
    def NAME(self) -> str:  # noqa: N802 (a constant, as modules have)
        """As people name it."""

    def asks(self, scale: Scale) -> int:
        """About how many turns each mode is asked for."""

    def run(self, rounds: Rounds, scale: Scale) -> None:
        """Measure, and put the rows into the run."""


@dataclass(frozen=True)
class Engine:
    """One vLLM server. `policy`: Marginalia's PREFIX_POLICY with it."""

    name: str
    model: Callable[[], Path]
    arguments: tuple[str, ...]
    scenarios: tuple[Scenario, ...]
    policy: str = "sampled"
    environment: tuple[tuple[str, str], ...] = (("VLLM_CPU_KVCACHE_SPACE", "4"),)


_ROUTES = ("--enable-scale-out",)
"""vLLM 0.32 shows /inference/v1/generate only then; 0.26 does always."""
_TINY = (*_ROUTES, *tiny.LOAD_ARGS, "--logits-processors", "bench.scripted:Scripted")
_THINKS = ("--reasoning-parser", "qwen3", "--enable-auto-tool-choice", "--tool-call-parser", "hermes")
_QWEN3 = FAMILIES["qwen3"].directory

# `tiny` has random weights behind Qwen3's tokenizer and template; `default` is SmolLM2-135M-Instruct.
ON_A_CPU = (
    Engine(
        "tiny",
        _QWEN3,
        _TINY,
        (growing, shared, branch, store, kvcached.basic, kvcached.long, crowd, restart),
    ),
    Engine("tiny-thinking", _QWEN3, (*_TINY, *_THINKS), (tools,)),
    Engine(
        "tiny-small",
        _QWEN3,
        (*_TINY, *memory.VLLM_ARGS),
        (memory, kvcached.lru),
        environment=(("VLLM_CPU_KVCACHE_SPACE", "1"), ("PREFIX_STORE_MB", "1")),
    ),
    Engine(
        "default",
        FAMILIES["smollm2"].directory,
        (*_ROUTES, *DEFAULT_VLLM_ARGS),
        (real,),
        # What it says is cut by the limit, mostly within a word: sampled ids would be no full render's.
        "canonical",
    ),
)


def on_a_gpu(model: Path, arguments: tuple[str, ...]) -> tuple[Engine, ...]:
    """One engine for `model`, with random weights. What those say cannot be read back as the same tokens, so
    Marginalia keeps the ids of the text instead (PREFIX_POLICY=canonical)."""
    scenarios = (growing, store, crowd)
    loading = ("--load-format", "dummy", *arguments)
    return (Engine(model.name, lambda: model, loading, scenarios, "canonical", ()),)


def names(engines: tuple[Engine, ...]) -> list[str]:
    """Of their scenarios, in order."""
    return [scenario.NAME for engine in engines for scenario in engine.scenarios]
