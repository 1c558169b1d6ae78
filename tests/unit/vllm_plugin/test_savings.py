"""Which savings are on, and where: the engine core's part in vLLM's own module, stand-ins for what runs."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import vllm
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.engine import EngineCoreRequestType, core

from app.vllm_plugin import savings, staged_ids
from app.vllm_plugin.block_hashes import ResumedHasher
from app.vllm_plugin.prompt_ids import PromptIds
from tests.unit.vllm_plugin.test_prompt_ids import engine_request

NO_CUDA = "untested_platform"
IN_CORE = {"block_hashes": "on", "token_ids": "on", "staged_ids": "on"}
ON_ALL = {"detokenizer": "on", **IN_CORE}


@pytest.fixture(autouse=True)
def plugin_named(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """VLLM_PLUGINS names us, the switches are not set; what a test installs is undone."""
    monkeypatch.setenv("VLLM_PLUGINS", "other,marginalia")
    for switch in savings.SWITCHES.values():
        monkeypatch.delenv(switch, raising=False)
    # Not run on a GPU with this version; what decides is the same.
    monkeypatch.setitem(savings.TESTED_VLLM, "staged_ids", savings.TESTED_VLLM["token_ids"])
    monkeypatch.setattr(core, "get_request_block_hasher", core.get_request_block_hasher)
    monkeypatch.setattr(core.EngineCore, "preprocess_add_request", core.EngineCore.preprocess_add_request)
    yield
    if hasattr(core.EngineCore, "marginalia_savings"):
        del core.EngineCore.marginalia_savings


def running_core(executor: str = "uni", v2_model_runner: bool = True, **parallel: Any) -> Any:
    """As much of an engine core as it is asked for: what it made at its start."""
    config = SimpleNamespace(
        parallel_config=SimpleNamespace(
            **{"distributed_executor_backend": executor, "nnodes": 1, **parallel}
        ),
        use_v2_model_runner=v2_model_runner,
    )
    hasher = core.get_request_block_hasher(16, get_hash_fn_by_name("sha256"))
    return SimpleNamespace(vllm_config=config, request_block_hasher=hasher)


def installed(**options: Any) -> dict[str, str]:
    savings.install()
    answer: dict[str, str] = core.EngineCore.marginalia_savings(running_core(**options))  # type: ignore[attr-defined]
    return answer


def test_nothing_is_installed_where_we_are_not_named(monkeypatch: pytest.MonkeyPatch) -> None:
    before = core.get_request_block_hasher, core.EngineCore.preprocess_add_request
    for names in ("", "marginalia2", None):
        monkeypatch.setenv("VLLM_PLUGINS", names) if names is not None else monkeypatch.delenv("VLLM_PLUGINS")
        savings.install()
    assert (core.get_request_block_hasher, core.EngineCore.preprocess_add_request) == before
    assert not hasattr(core.EngineCore, "marginalia_savings")


def test_an_engine_core_resumes_hashes_and_unpacks_ids() -> None:
    assert installed() == {**IN_CORE, "staged_ids": NO_CUDA}
    assert isinstance(running_core().request_block_hasher, ResumedHasher)
    hasher = core.get_request_block_hasher
    savings.install()
    assert core.get_request_block_hasher is hasher, "installed twice"


@pytest.mark.parametrize("name", IN_CORE)
def test_each_is_switched_off_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = core.get_request_block_hasher, core.EngineCore.preprocess_add_request
    monkeypatch.setenv(savings.SWITCHES[name], "0")
    expected = {**IN_CORE, "staged_ids": NO_CUDA, name: "switched_off"}
    if name == "token_ids":
        expected["staged_ids"] = "needs_token_ids"
    assert installed() == expected
    after = core.get_request_block_hasher, core.EngineCore.preprocess_add_request
    assert [a is b for a, b in zip(after, before, strict=True)] == [
        name == "block_hashes",
        name == "token_ids",
    ]


def test_an_untested_version_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = core.get_request_block_hasher, core.EngineCore.preprocess_add_request
    monkeypatch.setattr(vllm, "__version__", "0.99.0")
    assert set(installed().values()) == {"untested_vllm_version"}
    assert (core.get_request_block_hasher, core.EngineCore.preprocess_add_request) == before


def test_ids_are_not_sent_as_buffers_to_workers_elsewhere() -> None:
    assert installed(executor="ray")["token_ids"] == "several_hosts"
    assert installed(executor="mp", nnodes=2)["token_ids"] == "several_hosts"


@pytest.mark.parametrize(
    ("options", "staged"),
    [
        ({}, "on"),
        ({"v2_model_runner": False}, "v1_model_runner"),
        ({"executor": "ray"}, "needs_token_ids"),
    ],
)
def test_ids_are_staged_as_arrays_where_they_are_staged(
    options: dict[str, Any], staged: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staged_ids, "install", lambda: "on")
    assert installed(**options)["staged_ids"] == staged


@pytest.mark.parametrize("why", ["untested_platform", "vllm_seam_missing"])
def test_why_nothing_was_installed_comes_first(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staged_ids, "install", lambda: why)
    assert installed(v2_model_runner=False) == {**IN_CORE, "staged_ids": why}


def test_a_bad_switch_stops_the_start_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN_ID_BUFFERS", "yes")
    with pytest.raises(SystemExit, match="TOKEN_ID_BUFFERS must be 0 or 1, not 'yes'"):
        savings.install()


class _Client:
    """An engine client whose core gives `answer`, or does not know us."""

    def __init__(self, answer: dict[str, str] | None, data_parallel_size: int = 1) -> None:
        parallel = SimpleNamespace(data_parallel_size=data_parallel_size)
        self.vllm_config = SimpleNamespace(parallel_config=parallel)
        self.engine_core = self
        self.renderer = SimpleNamespace(validate_token_ids=lambda ids: self.checked.append(list(ids)))
        self.input_processor = SimpleNamespace()
        self.answer = answer
        self.sent: list[Any] = []
        self.checked: list[list[int]] = []

    async def call_utility_async(self, method: str) -> dict[str, str]:
        if self.answer is None:
            raise RuntimeError(f"no method {method}")
        return self.answer

    def _send_input(self, request_type: Any, request: Any, *engine: Any) -> None:
        self.sent.append((request_type, request, *engine))


async def outcome(client: _Client) -> tuple[dict[str, str], bool, bool]:
    """The savings; whether ids then leave as a buffer; whether only the range's ends are checked."""
    spared = await savings.agree(client)
    ids = PromptIds(np.array([5, 1, 9], np.int32))
    client._send_input(EngineCoreRequestType.ADD, engine_request(ids), "engine 0")
    client._send_input(EngineCoreRequestType.ABORT, ["r"])
    client.renderer.validate_token_ids(ids)
    (_, request, engine), aborted = client.sent
    assert (engine, aborted) == ("engine 0", (EngineCoreRequestType.ABORT, ["r"]))
    return spared, request.prompt_token_ids is None, client.checked == [[1, 9]]


async def test_ids_leave_as_a_buffer_only_where_the_engine_core_takes_them() -> None:
    answer = dict(IN_CORE)
    assert await outcome(_Client(answer)) == (ON_ALL, True, True)
    without = {"token_ids": "switched_off", "staged_ids": "needs_token_ids"}
    assert await outcome(_Client(answer | without)) == (ON_ALL | without, False, False)
    unknown = dict.fromkeys(answer, "not_in_the_engine_core")
    assert await outcome(_Client(None)) == (ON_ALL | unknown, False, False)
    parallel = dict.fromkeys(answer, "data_parallel")
    assert await outcome(_Client(answer, data_parallel_size=2)) == (ON_ALL | parallel, False, False)


async def test_vllm_0_26_checks_the_range_in_its_input_processor() -> None:
    client = _Client(dict(IN_CORE))
    lengths: list[int] = []
    client.renderer = SimpleNamespace()
    client.input_processor = SimpleNamespace(
        _validate_prompt_len=lambda length, prompt_type: lengths.append(length),
        _validate_model_input=lambda prompt, prompt_type: client.checked.append(prompt["prompt_token_ids"]),
    )
    await savings.agree(client)
    prompt = {"type": "token", "prompt_token_ids": PromptIds(np.array([5, 1, 9], np.int32))}
    client.input_processor._validate_model_input(prompt, prompt_type="decoder")
    assert (lengths, client.checked) == ([3], [[1, 9]])
