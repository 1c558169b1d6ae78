"""Entry point of the group `vllm.endpoint_plugins`: how vLLM finds and starts the prefix protocol.

Loaded only where VLLM_PLUGINS names `marginalia`. Its own settings come from the environment of the vLLM
process: MARGINALIA_SECRET (required), PREFIX_STORE_MB (default 1024), CANARY_SHARE (of continued prompts,
0 to 1, that are made a second time in full and compared; default 0.01), and switches for what vLLM's engine
is spared, each 1 by default and 0 to leave vLLM's own way: DETOKENIZE_TAIL (the detokenizer starts at the
prompt's tail), RESUME_BLOCK_HASHES (block hashes of known tokens are not computed again), TOKEN_ID_BUFFERS
(ids go from process to process as one buffer).
"""

import os
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from app.vllm_plugin import savings
from app.vllm_plugin.access import Refused, on_refused
from app.vllm_plugin.unfit import Unfit, build_unfit_router, require_tested_version

if TYPE_CHECKING:
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
        self._canary_share = _share(os.environ.get("CANARY_SHARE", "0.01"))
        for name in savings.SWITCHES:
            savings.decided(name)
        self._unfit: Unfit | None = None

    def attach_router(self, app: FastAPI) -> None:
        handled: tuple[type[Exception], ...] = (Refused,)
        try:
            require_tested_version()
            # Here and not above: where a version lacks what this imports, its server must start all the same.
            from app.vllm_plugin.routes import HANDLED, build_router

            router, handled = build_router(self._secret), HANDLED
        except Exception as exc:
            self._unfit = Unfit(exc)
            router = build_unfit_router(self._secret, self._unfit)
        app.include_router(router)
        for exception in handled:
            app.add_exception_handler(exception, on_refused)

    async def init_state(self, engine_client: Any, state: Any, args: Any) -> None:
        if getattr(args, "api_server_count", None) not in (None, 1):
            raise SystemExit(
                "Marginalia keeps prefixes per API process: start vLLM with --api-server-count 1"
            )
        if self._unfit is None:
            state.marginalia = await self._service(state)

    async def _service(self, state: Any) -> "PrefixService | Unfit":
        try:
            from app.vllm_plugin import harmony_seam, sandbox, seam
            from app.vllm_plugin.service import PrefixService

            serving = state.openai_serving_chat
            await seam.check(serving)
            await harmony_seam.check(serving)
            sandbox.install()
            spared = await savings.agree(serving.engine_client)
            return PrefixService(serving, self._budget_bytes, savings=spared, canary_share=self._canary_share)
        except Exception as exc:
            return Unfit(exc)


def _share(value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise SystemExit(f"CANARY_SHARE must be a number from 0 to 1, not {value!r}")
    return share
