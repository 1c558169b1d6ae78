"""vLLM servers for a benchmark: one untouched, one with the plugin."""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from app.local.vllm import LocalVllm
from bench.client import MODEL, SECRET

STOCK, PLUGIN = "stock", "plugin"


@contextmanager
def running(
    model: str, names: Sequence[str], arguments: Sequence[str], logs: Path, *, at_once: bool
) -> Iterator[list[LocalVllm]]:
    """Servers named STOCK or PLUGIN with the same arguments, ready. `at_once`: all start together."""
    # vLLM's own answer to previous_response_id: a store in its memory, without which it has none.
    os.environ["VLLM_ENABLE_RESPONSES_API_STORE"] = "1"
    with ExitStack() as stack:
        servers = []
        for name in names:
            # Each its own, or two that start together would write one cache of compiled code.
            os.environ["VLLM_CACHE_ROOT"] = str(logs / f"cache-{name}")
            secret = SECRET if name == PLUGIN else None
            vllm = LocalVllm(model, MODEL, log_dir=logs, secret=secret, extra_args=arguments, name=name)
            vllm.start()
            stack.callback(vllm.stop)
            servers.append(vllm)
            if not at_once:
                vllm.wait_ready()
        for vllm in servers:
            vllm.wait_ready()
        yield servers
