"""Entry point of the group `vllm.endpoint_plugins`: how vLLM finds and starts the prefix protocol.

Loaded only where VLLM_PLUGINS names `marginalia`. Its own settings come from the environment of the vLLM
process: MARGINALIA_SECRET (required), PREFIX_STORE_MB (default 1024) and DETOKENIZE_TAIL (default 1; 0 leaves
vLLM's detokenizer as it is).
"""

import os
from typing import Any

from fastapi import FastAPI

from app.vllm_plugin.routes import HANDLED, build_router, on_refused
from app.vllm_plugin.service import PrefixService


class MarginaliaPlugin:
    """Adds /prefix/v1 to vLLM's OpenAI-compatible server. See vllm.plugins.endpoint_plugins.interface."""

    name = "marginalia"
    required_tasks = ("generate",)

    def __init__(self) -> None:
        self._secret = os.environ.get("MARGINALIA_SECRET", "")
        if not self._secret:
            raise SystemExit("MARGINALIA_SECRET is not set: the prefix routes would be open to anybody")
        megabytes = os.environ.get("PREFIX_STORE_MB", "1024")
        if not megabytes.isdecimal() or int(megabytes) == 0:
            raise SystemExit(f"PREFIX_STORE_MB must be a positive whole number, not {megabytes!r}")
        self._budget_bytes = int(megabytes) << 20
        tail = os.environ.get("DETOKENIZE_TAIL", "1")
        if tail not in ("0", "1"):
            raise SystemExit(f"DETOKENIZE_TAIL must be 0 or 1, not {tail!r}")
        self._detokenize_tail = tail == "1"

    def attach_router(self, app: FastAPI) -> None:
        app.include_router(build_router(self._secret))
        for exception in HANDLED:
            app.add_exception_handler(exception, on_refused)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        if getattr(args, "api_server_count", None) not in (None, 1):
            raise SystemExit(
                "Marginalia keeps prefixes per API process: start vLLM with --api-server-count 1"
            )
        state.marginalia = PrefixService(
            state.openai_serving_chat, self._budget_bytes, detokenize_tail=self._detokenize_tail
        )
