"""The local vLLM server: a guarded process that ends with the processes that need it.

vllm = LocalVllm(model, name, log_dir=…, secret="…")    # secret=None: stock vLLM without the plugin
vllm.start(); vllm.wait_ready(print); …; vllm.stop()
"""

import importlib.metadata
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from app.errors import SetupError
from app.local import vllm_log
from app.local.guard import LOG_LIMIT_BYTES, Guarded

HOST = "127.0.0.1"
PLUGIN = "marginalia"
CPU_KV_CACHE_GIB = "1"
STOP_GRACE_S = 10.0
POLL_S = 0.25
LOG_TAIL_BYTES = 250_000
ORPHAN_PATIENCE_S = STOP_GRACE_S + 10.0


class LocalVllm:
    """One vLLM server on this machine. `url` is the same after every `start`."""

    name = "vLLM"

    def __init__(
        self,
        model: str,
        served_name: str,
        *,
        log_dir: Path,
        secret: str | None,
        extra_args: Sequence[str] = (),
        port: int | None = None,
        name: str = "vllm",
    ) -> None:
        """`model` is a directory or a hub name; `name` tells several servers with one `log_dir` apart."""
        self.served_name = served_name
        self.port = port or free_port()
        self.url = f"http://{HOST}:{self.port}"
        self.log = log_dir / f"{name}.log"
        self._model = model
        self._secret = secret
        self._extra_args = list(extra_args)
        self._guarded = Guarded(log_dir / f"{name}.lock")
        self._log_began = 0
        self._began = 0.0

    def start(self) -> None:
        """Start the server without waiting for it. Raises SetupError where no vLLM is installed."""
        gpu = _is_gpu_build()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._wait_for_orphan()
        size = self.log.stat().st_size if self.log.exists() else 0
        self._log_began = size if size <= LOG_LIMIT_BYTES else 0  # the guard begins a big log anew
        self._began = time.monotonic()
        self._guarded.start(self._command(gpu), log=self.log, grace_s=STOP_GRACE_S, env=self._env(gpu))

    def wait_ready(
        self,
        status: Callable[[str], None] = lambda _: None,
        *,
        timeout_s: float = 3600.0,
        give_up: threading.Event | None = None,
    ) -> float:
        """Wait until the server answers; returns the seconds since `start`.

        Raises SetupError with what its log says where it dies or takes longer than `timeout_s`. Returns
        early once `give_up` is set.
        """
        give_up = give_up or threading.Event()
        while not self.is_healthy():
            took = time.monotonic() - self._began
            if not self.alive():
                raise vllm_log.failure(self.output(), self.log, self._guarded.returncode)
            if took > timeout_s:
                raise SetupError(
                    f"vLLM was not ready after {took:.0f} s; its log: {self.log}",
                    hint="Try a smaller model (MODEL), or look into the log for what it waits for.",
                )
            status(vllm_log.progress(self.output()))
            if give_up.wait(POLL_S):
                break
        return time.monotonic() - self._began

    def restart(self, give_up: threading.Event) -> float:
        """As `start` and `wait_ready`."""
        self.start()
        return self.wait_ready(give_up=give_up)

    def is_healthy(self) -> bool:
        """Whether the server answers on /health."""
        try:
            return httpx.get(f"{self.url}/health", timeout=2.0, trust_env=False).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def alive(self) -> bool:
        """Whether the process runs, ready or not."""
        return self._guarded.alive()

    def output(self) -> str:
        """What the server wrote since it was last started, the last quarter of a megabyte of it."""
        with self.log.open("rb") as log:
            size = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_began, size - LOG_TAIL_BYTES))
            return log.read().decode(errors="replace")

    def stop(self) -> None:
        """End the server and everything it started; returns once all of it is gone."""
        self._guarded.stop()

    def kill(self) -> None:
        """`kill -9` everything that was started, as a crash would (Linux only, for tests)."""
        guard = self._guarded.pid
        children = Path(f"/proc/{guard}/task/{guard}/children").read_text().split()
        for child in children:
            os.killpg(int(child), signal.SIGKILL)  # the guard gave its child a group of its own
        while self._guarded.returncode is None:
            time.sleep(0.02)

    def _wait_for_orphan(self) -> None:
        # After a kill -9 of its owner, a server of the same name may just be stopping.
        until = time.monotonic() + ORPHAN_PATIENCE_S
        while self.alive():
            if time.monotonic() > until:
                raise SetupError(
                    f"Another process uses the local vLLM of {self.log.parent}",
                    hint="Stop the other one, or set another DATA_DIR.",
                )
            time.sleep(POLL_S)

    def _command(self, gpu: bool) -> list[str]:
        # Not the `vllm` command: the CPU build's looks for a distribution of another name and dies.
        command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", self._model, "--served-model-name", self.served_name]
        command += ["--host", HOST, "--port", str(self.port), "--enable-prompt-tokens-details"]
        command += [] if gpu else ["--enforce-eager", "--dtype", "bfloat16"]
        return command + self._extra_args

    def _env(self, gpu: bool) -> dict[str, str]:
        env = {**os.environ, "VLLM_NO_USAGE_STATS": "1"}
        if not gpu:
            env.setdefault("VLLM_CPU_KVCACHE_SPACE", CPU_KV_CACHE_GIB)
        if Path(self._model).exists():
            env["HF_HUB_OFFLINE"] = "1"
        others = [name for name in env.pop("VLLM_PLUGINS", "").split(",") if name and name != PLUGIN]
        env.pop("MARGINALIA_SECRET", None)
        if self._secret is not None:
            others.append(PLUGIN)
            env["MARGINALIA_SECRET"] = self._secret
        # Set and empty means none; not set would mean every plugin that is installed.
        env["VLLM_PLUGINS"] = ",".join(others)
        return env


def _is_gpu_build() -> bool:
    try:
        return "+cpu" not in importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        pass
    try:
        importlib.metadata.version("vllm-cpu")
    except importlib.metadata.PackageNotFoundError:
        raise SetupError(
            "vLLM is not installed in this environment",
            hint="`make run` without WORKER_URLS installs it; or name running servers in WORKER_URLS.",
        ) from None
    return False


def free_port() -> int:
    """One that nobody listens on just now."""
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        return int(sock.getsockname()[1])
