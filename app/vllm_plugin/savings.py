"""What vLLM's engine is spared for a prompt that it mostly knows: which savings there are, and which are on.

Entry point of the group `vllm.general_plugins`, which vLLM loads in each of its processes; it does nothing
unless VLLM_PLUGINS names `marginalia`. Once the engine core runs, it is asked what it decided: one that lacks
this code only costs more. See docs/adr/0006-engine-savings.md.
"""

import logging
import os
from typing import Any

import vllm

from app.vllm_plugin import prompt_ids, staged_ids
from app.vllm_plugin.block_hashes import ResumedHasher

PLUGIN = "marginalia"
SWITCHES = {
    "detokenizer": "DETOKENIZE_TAIL",
    "block_hashes": "RESUME_BLOCK_HASHES",
    "token_ids": "TOKEN_ID_BUFFERS",
    "staged_ids": "STAGED_ID_BUFFERS",
}
"""Environment variables by saving: 0 leaves vLLM's own way, 1 is the default."""
TESTED_VLLM = {
    "detokenizer": ("0.26.", "0.32."),
    "block_hashes": ("0.26.", "0.32."),
    "token_ids": ("0.26.", "0.32."),
    "staged_ids": ("0.26.",),
}
"""Beginnings of the versions that a saving was tested on."""

ON = "on"
_IN_ENGINE_CORE = ("block_hashes", "token_ids", "staged_ids")
_ASK = "marginalia_savings"
_ONE_HOST = (None, "uni", "mp")
"""Executors whose workers are processes of this host, with the same packages installed."""

logger = logging.getLogger("vllm.marginalia")


def decided(name: str) -> str:
    """`on`, or why the saving `name` is left alone in this process. Raises SystemExit for a bad switch."""
    value = os.environ.get(SWITCHES[name], "1")
    if value not in ("0", "1"):
        raise SystemExit(f"{SWITCHES[name]} must be 0 or 1, not {value!r}")
    if value == "0":
        return "switched_off"
    return ON if vllm.__version__.startswith(TESTED_VLLM[name]) else "untested_vllm_version"


def install() -> None:
    """Prepare this process, should it become an engine core or start one."""
    if PLUGIN not in os.environ.get("VLLM_PLUGINS", "").split(","):
        return
    try:
        from vllm.v1.engine import core

        if not hasattr(core.EngineCore, _ASK):
            _prepare(core)
    except Exception:
        # Of a version that has other parts: its engine runs as it is.
        logger.warning("Marginalia leaves vLLM's engine as it is", exc_info=True)


def _prepare(core: Any) -> None:
    block_hashes, token_ids, staged = (decided(name) for name in _IN_ENGINE_CORE)
    hasher, preprocess = core.get_request_block_hasher, core.EngineCore.preprocess_add_request

    def get_request_block_hasher(block_tokens: int, hash_function: Any) -> ResumedHasher:
        return ResumedHasher(hasher(block_tokens, hash_function), block_tokens)

    def preprocess_add_request(self: Any, request: Any) -> Any:
        return preprocess(self, prompt_ids.unpacked(request))

    def savings(self: Any) -> dict[str, str]:
        parallel = self.vllm_config.parallel_config
        one_host = parallel.distributed_executor_backend in _ONE_HOST and parallel.nnodes == 1
        resumed = isinstance(self.request_block_hasher, ResumedHasher)
        buffers = "several_hosts" if token_ids == ON and not one_host else token_ids
        return {
            "block_hashes": "no_prefix_caching" if block_hashes == ON and not resumed else block_hashes,
            "token_ids": buffers,
            "staged_ids": _staged(self.vllm_config, staged, buffers),
        }

    if block_hashes == ON:
        core.get_request_block_hasher = get_request_block_hasher
    if token_ids == ON:
        core.EngineCore.preprocess_add_request = preprocess_add_request
    if token_ids == staged == ON:
        staged = staged_ids.install()
    setattr(core.EngineCore, _ASK, savings)


def _staged(config: Any, staged: str, token_ids: str) -> str:
    if staged == ON and token_ids != ON:
        return "needs_token_ids"
    return "v1_model_runner" if staged == ON and not config.use_v2_model_runner else staged


async def agree(engine_client: Any) -> dict[str, str]:
    """Ask the engine core what it does, and do this process's part: every saving, `on` or why it is not."""
    spared = {"detokenizer": decided("detokenizer")}
    if engine_client.vllm_config.parallel_config.data_parallel_size != 1:
        return spared | dict.fromkeys(_IN_ENGINE_CORE, "data_parallel")
    try:
        spared |= await engine_client.engine_core.call_utility_async(_ASK)
    except Exception:
        return spared | dict.fromkeys(_IN_ENGINE_CORE, "not_in_the_engine_core")
    if spared["token_ids"] == ON:
        _send_buffers(engine_client.engine_core)
        _check_ends(engine_client)
    return spared


def _check_ends(engine_client: Any) -> None:
    """Of the ids' range, wherever this version checks it."""
    renderer = engine_client.renderer
    if hasattr(renderer, "validate_token_ids"):
        renderer.validate_token_ids = prompt_ids.check_range(renderer.validate_token_ids)
    else:
        inputs = engine_client.input_processor
        inputs._validate_model_input = prompt_ids.check_input(
            inputs._validate_model_input, inputs._validate_prompt_len
        )


def _send_buffers(client: Any) -> None:
    from vllm.v1.engine import EngineCoreRequestType

    stock = client._send_input

    def send_input(request_type: Any, request: Any, *rest: Any) -> Any:
        is_request = request_type == EngineCoreRequestType.ADD
        return stock(request_type, prompt_ids.packed(request) if is_request else request, *rest)

    client._send_input = send_input
