"""Everything that a run measures, started once: vLLM with its tap, Postgres, Marginalia, agentic-api.

All processes are guarded: they end with the benchmark, however it ends.
"""

import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import httpx
import psutil

from app.local.database import on_database
from app.local.guard import Guarded
from app.local.postgres import EmbeddedPostgres
from app.local.vllm import HOST, LocalVllm, free_port
from app.prefix.hashing import namespace_of
from app.prefix.wire import SECRET_HEADER
from app.store import migrate
from bench import http

ROOT = Path(__file__).resolve().parents[1]
MODEL = "bench"
READY_S = 60.0
Say = Callable[[str], None]


class Server(NamedTuple):
    """A running server: its base URL and its process."""

    url: str
    pid: int


@dataclass
class Stack:
    """What runs; `agentic` is None where that could not be started, and `why_not` says why."""

    vllm: LocalVllm
    database_url: str
    marginalia: Server
    secret: str
    agentic: Server | None
    agentic_store: Path
    why_not: str

    def plugin(self) -> dict[str, Any]:
        """What the plugin says of itself."""
        url, secret = f"{self.vllm.url}/prefix/v1/info", {SECRET_HEADER: self.secret}
        answer: dict[str, Any] = http.ask(url, headers=secret)
        return answer

    @property
    def salt(self) -> str:
        """vLLM's `cache_salt` of Marginalia's one tenant: with it, others find the same KV blocks."""
        return namespace_of(self.secret, "default")


@contextmanager
def running(
    model: str,
    vllm_args: Sequence[str],
    directory: Path,
    logs: Path,
    say: Say,
    *,
    policy: str,
    environment: dict[str, str],
) -> Iterator[Stack]:
    """A stack on `model`. `policy`: Marginalia's PREFIX_POLICY. Raises SetupError, SystemExit."""
    secret = secrets.token_hex(16)
    environment = {
        **environment,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        # vLLM's own answer to previous_response_id: a store in its memory, without which it has none.
        "VLLM_ENABLE_RESPONSES_API_STORE": "1",
    }
    with ExitStack() as stack, patch.dict(os.environ, environment):
        arguments = ["--middleware", "bench.tap.Tap", *vllm_args]
        vllm = LocalVllm(model, MODEL, log_dir=logs, secret=secret, extra_args=arguments)
        vllm.start()
        stack.callback(vllm.stop)
        say("Postgres")
        url = stack.enter_context(EmbeddedPostgres(directory))
        on_database(url, migrate.upgrade)
        vllm.wait_ready(lambda status: say(f"vLLM: {status}"))
        say("Marginalia")
        marginalia = stack.enter_context(_marginalia(directory, logs, vllm.url, url, secret, policy))
        say("agentic-api")
        store, agentic, why_not = directory / "agentic.db", None, ""
        try:
            agentic = stack.enter_context(_agentic(store, logs, vllm.url))
        except NotThere as exc:
            why_not = str(exc)
        yield Stack(vllm, url, marginalia, secret, agentic, store, why_not)


class NotThere(RuntimeError):
    """A part could not be started; says why."""


@contextmanager
def _marginalia(
    directory: Path, logs: Path, vllm: str, database: str, secret: str, policy: str
) -> Iterator[Server]:
    port = free_port()
    env = {**os.environ, "WORKER_URLS": vllm, "DATABASE_URL": database, "MARGINALIA_SECRET": secret}
    env |= {"HOST": HOST, "PORT": str(port), "DATA_DIR": str(directory), "PREFIX_POLICY": policy}
    # Not as the caller's shell has it.
    env |= {"KEEP_TOKEN_IDS": "true", "PREFIX_TTL_SECONDS": "3600"}
    command = [sys.executable, "-m", "bench.service"]
    with _guarded(logs, "marginalia", command, env, f"http://{HOST}:{port}", "/ready") as server:
        yield server


@contextmanager
def _agentic(store: Path, logs: Path, vllm: str) -> Iterator[Server]:
    places = os.pathsep.join([str(Path(sys.executable).parent), *sys.path, os.environ["PATH"]])
    binary = shutil.which("agentic-server", path=places)
    if binary is None:
        raise NotThere("agentic-server is not installed (pip install agentic-api==0.9.0)")
    port = free_port()
    command = [binary, "--llm-api-base", vllm, "--gateway-host", HOST, "--gateway-port", str(port)]
    command += ["--db-url", f"sqlite://{store}?mode=rwc", "--max-request-body-size-bytes", str(1 << 28)]
    env = {**os.environ, "HOME": str(store.parent)}
    with _guarded(logs, "agentic", command, env, f"http://{HOST}:{port}", "/health") as server:
        yield server


@contextmanager
def _guarded(
    logs: Path, name: str, command: list[str], env: dict[str, str], url: str, ready: str
) -> Iterator[Server]:
    log = logs / f"{name}.log"
    process = Guarded(logs / f"{name}.lock")
    try:
        process.start(command, log=log, env=env, cwd=ROOT)
        until = time.monotonic() + READY_S
        while not _answers(url + ready):
            if not process.alive() or time.monotonic() > until:
                said = log.read_text(errors="replace")[-500:]
                raise NotThere(f"{name} did not start: {said}")
            time.sleep(0.1)
        (child,) = psutil.Process(process.pid).children()
        yield Server(url, child.pid)
    finally:
        process.stop()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0, trust_env=False).is_success
    except httpx.HTTPError:
        return False
