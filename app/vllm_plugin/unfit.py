"""What the plugin answers where it does not fit the vLLM that it runs in.

That server must come up and serve all the same: conversations then go to vLLM's own routes, whole, and
`refusal` in /prefix/v1/info says why. Imports nothing that a version of vLLM may lack.
"""

import logging
import secrets
from importlib.metadata import version
from typing import Any, NoReturn

import msgspec
import vllm
from fastapi import APIRouter, Depends
from fastapi.responses import Response

from app.prefix.wire import PROTOCOL, PluginInfo
from app.vllm_plugin.access import Refused, secret_required

TESTED_VLLM = ("0.26.", "0.27.", "0.28.", "0.29.", "0.30.", "0.31.", "0.32.")
"""Versions on which the parity suite ran, see docs/adr/0008-vllm-versions.md."""

logger = logging.getLogger("vllm.marginalia")


class UntestedVersion(Exception):
    """This vLLM is none of TESTED_VLLM."""


def require_tested_version() -> None:
    if not vllm.__version__.startswith(TESTED_VLLM):
        raise UntestedVersion(f"vLLM {vllm.__version__} is none of {', '.join(TESTED_VLLM)}")


class Unfit:
    """In the place of PrefixService: knows why there is none, and refuses every turn."""

    def __init__(self, cause: Exception) -> None:
        self._epoch = secrets.token_hex(8)
        self.refusal = _refusal(cause)
        logger.warning(
            "Marginalia keeps no prefixes here, every turn is rendered in full: %s",
            self.refusal,
            exc_info=cause,
        )

    def info(self) -> PluginInfo:
        return PluginInfo(
            protocol=PROTOCOL,
            version=version("marginalia"),
            vllm_version=vllm.__version__,
            epoch=self._epoch,
            model="",
            max_model_len=0,
            store_bytes=0,
            boundary_tokens=0,
            refusal=self.refusal,
            savings={},
        )

    def refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Raises Refused, a typed miss."""
        raise Refused(409, "not_continuable", f"this server keeps no prefixes: {self.refusal}")

    stats = render = chat = drop = refuse


def _refusal(cause: Exception) -> str:
    if isinstance(cause, UntestedVersion):
        return "untested_vllm_version"
    missing = isinstance(cause, ImportError | AttributeError | TypeError)
    return "vllm_seam_missing" if missing else "plugin_start_failed"


def build_unfit_router(secret: str, unfit: Unfit) -> APIRouter:
    """As routes.build_router, which needs more of vLLM."""
    router = APIRouter(prefix="/prefix/v1", dependencies=[Depends(secret_required(secret))])

    @router.get("/info")
    async def info() -> Response:
        return Response(msgspec.json.encode(unfit.info()), media_type="application/json")

    @router.api_route("/{path:path}", methods=["GET", "POST", "DELETE"])
    async def anything_else(path: str) -> None:
        unfit.refuse(path)

    return router
