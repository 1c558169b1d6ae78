"""What reaches the rows of a model runner V2 is what vLLM writes there; with vLLM's own states and buffers.

Of those only the memory, which is a GPU's, and the kernel that copies into the rows are others here.
"""

import pickle
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import vllm.v1.worker.cpu.buffer_utils as cpu_buffer_utils
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vllm import SamplingParams
from vllm.platforms import current_platform
from vllm.v1.core.sched import output
from vllm.v1.request import Request
from vllm.v1.worker.gpu import buffer_utils, states

from app.vllm_plugin import staged_ids
from app.vllm_plugin.prompt_ids import CHANGING, PromptIds
from app.vllm_plugin.staged_ids import StagedIds

ROWS, LENGTH = 6, 40
CPU = torch.device("cpu")
IDS = st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20)
STEPS = st.lists(st.lists(st.tuples(IDS, st.booleans(), st.lists(st.just(7), max_size=3)), max_size=ROWS))


class CopyingKernel:
    """As `_apply_write_kernel`: the contents, end to end, into rows from their starts on."""

    def __getitem__(self, grid: tuple[int]) -> Any:
        return self._launch

    def _launch(
        self, rows: Any, stride: int, indices: Any, starts: Any, contents: Any, ends: Any, *_: Any, **__: Any
    ) -> None:
        assert contents.dtype == torch.int32
        begin = 0
        for row, start, end in zip(indices.tolist(), starts.tolist(), ends.tolist(), strict=True):
            target = rows[row, start : start + end - begin] if stride > 1 else rows[row : row + 1]
            target.copy_(contents[begin:end])
            begin = end


@pytest.fixture(params=[True, False], ids=["uva", "no_uva"])
def on_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM 0.32 writes ids through UVA where it can, and else as 0.26 does, by `async_tensor_h2d`."""
    monkeypatch.setattr(buffer_utils, "is_uva_available", lambda: request.param)
    monkeypatch.setattr(cpu_buffer_utils, "is_uva_available", lambda: True, raising=False)
    monkeypatch.setattr(buffer_utils, "UvaBuffer", cpu_buffer_utils.UvaBuffer)
    monkeypatch.setattr(buffer_utils, "_apply_write_kernel", CopyingKernel())


@pytest.fixture
def replaced(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`replace` was called; what it replaced is put back."""
    for owner, name in (
        (output.NewRequestData, "from_request"),
        (states.RequestState, "__init__"),
        (buffer_utils, "async_tensor_h2d"),
    ):
        monkeypatch.setattr(owner, name, vars(owner)[name])
    staged_ids.replace(output, states, buffer_utils)
    yield


def request(ids: list[int], generated: list[int], name: str = "r") -> Request:
    made = Request(name, ids, SamplingParams(max_tokens=9), None)
    made.append_output_token_ids(generated)
    return made


def prompt_ids(ids: list[int]) -> PromptIds:
    return PromptIds(np.array(ids, np.int32))


def scheduled(made: Request) -> Any:
    """As the scheduler does it for a model runner V2."""
    data = output.NewRequestData.from_request(made, ([1],), made._all_token_ids)
    assert (data.prompt_token_ids, data.prefill_token_ids) == (made.prompt_token_ids, made._all_token_ids)
    return data


def new_state() -> Any:
    return states.RequestState(ROWS, LENGTH, 64, 0, 1 << 31, CPU)


def add(state: Any, data: Any) -> None:
    """As the model runner does it."""
    state.add_request(data.req_id, len(data.prompt_token_ids), data.prefill_token_ids, 0, 9)


@pytest.mark.usefixtures("on_cpu", "replaced")
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], max_examples=60)
@given(steps=STEPS)
def test_the_same_rows(steps: list[list[tuple[list[int], bool, list[int]]]]) -> None:
    """Steps of new requests, with and without an array, some of which come back with what they generated."""
    ours, stock = new_state(), new_state()
    assert type(ours.all_token_ids._staged_write_contents) is StagedIds
    stock.all_token_ids._staged_write_contents = []
    for step in steps:
        for number, (ids, known, generated) in enumerate(step):
            add(ours, scheduled(request(prompt_ids(ids) if known else ids, generated, str(number))))
            add(stock, scheduled(request(ids, generated, str(number))))
        staged = ours.all_token_ids._staged_write_contents
        assert staged == stock.all_token_ids._staged_write_contents
        assert (staged.array is not None) == any(known and not generated for _, known, generated in step)
        for state in (ours, stock):
            state.apply_staged_writes()
        assert torch.equal(ours.all_token_ids.gpu, stock.all_token_ids.gpu)
        assert (len(staged), staged.array) == (0, None)
        for state in (ours, stock):
            for number in range(len(step)):
                state.remove_request(str(number))


@pytest.mark.usefixtures("on_cpu", "replaced")
def test_the_tensor_is_made_of_the_array(monkeypatch: pytest.MonkeyPatch) -> None:
    made_of: list[list[int]] = []
    stock = vars(StagedIds)["array"].fget

    def array(self: StagedIds) -> Any:
        made_of.append(list(self))
        return stock(self)

    monkeypatch.setattr(StagedIds, "array", property(array))
    state = new_state()
    for number, ids in enumerate(([1, 2], [3])):
        add(state, scheduled(request(prompt_ids(ids), [], str(number))))
    state.apply_staged_writes()
    assert made_of == [[1, 2, 3]]


def test_vllms_way_to_the_gpu_is_given_the_array(replaced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    given_it: list[tuple[type, list[int], Any]] = []
    stock = lambda data, device, dtype: given_it.append((type(data), list(data), dtype))  # noqa: E731
    monkeypatch.setattr(buffer_utils, "async_tensor_h2d", stock)
    staged_ids.replace(output, states, buffer_utils)
    staged, unknown = StagedIds(), StagedIds()
    staged.extend(prompt_ids([1, 2]))
    unknown.extend([1, 2])
    for data in (staged, unknown, [1, 2]):
        buffer_utils.async_tensor_h2d(data, device=CPU, dtype=torch.int32)
    assert given_it == [(kind, [1, 2], torch.int32) for kind in (torch.Tensor, StagedIds, list)]


@pytest.mark.usefixtures("replaced")
def test_only_a_whole_prompt_is_given_with_its_array() -> None:
    ids = prompt_ids([1, 2, 3])
    made = request(ids, [])
    assert scheduled(made).prefill_token_ids is ids
    assert type(made._all_token_ids) is list
    made.append_output_token_ids(9)
    assert scheduled(made).prefill_token_ids is made._all_token_ids
    # As vLLM's connectors that move KV caches do it: another token comes in the last one's place.
    shortened = request(prompt_ids([1, 2, 3]), [])
    shortened._all_token_ids.pop()
    shortened.append_output_token_ids(9)
    data = output.NewRequestData.from_request(shortened, ([1],), shortened._all_token_ids)
    assert data.prefill_token_ids is shortened._all_token_ids
    # The model runner V1 is given the prompt alone; vLLM's warm-up names its arguments.
    assert output.NewRequestData.from_request(made, ([1],)).prefill_token_ids is None
    warm = output.NewRequestData.from_request(made, block_ids=([1],), prefill_token_ids=[1, 2, 3])
    assert (warm.prefill_token_ids, warm.block_ids) == (ids, ([1],))


@pytest.mark.usefixtures("replaced")
def test_another_process_gets_the_ids_once() -> None:
    data = scheduled(request(prompt_ids(list(range(5000))), []))
    sent = pickle.dumps(data, protocol=pickle.HIGHEST_PROTOCOL)
    again = pickle.loads(sent)
    assert again.prefill_token_ids == list(range(5000))
    assert again.prefill_token_ids.array is not None
    assert 20_000 < len(sent) < 24_000


@pytest.mark.parametrize("change", sorted(set(CHANGING) - {"append", "extend"}))
def test_staged_ids_that_are_changed_otherwise_are_a_plain_list(change: str) -> None:
    arguments: dict[str, tuple[Any, ...]] = {
        "__delitem__": (0,),
        "__iadd__": ([4],),
        "__imul__": (2,),
        "__setitem__": (0, 4),
        "insert": (0, 4),
        "remove": (1,),
    }
    staged, expected = StagedIds(), [3, 1]
    staged.extend(prompt_ids([3, 1]))
    for each in (staged, expected):
        getattr(each, change)(*arguments.get(change, ()))
    assert (staged, staged.array) == (expected, None)
    assert np.asarray(staged, np.int32).tolist() == expected


def test_staged_ids_share_no_memory_and_leave_to_vllm_what_is_no_int32() -> None:
    ids, staged = prompt_ids([3, 1]), StagedIds()
    staged.append(8)
    staged.extend(ids)
    staged.extend([5, 6])
    array = staged.array
    assert array is not None and ids.array is not None
    assert (array.tolist(), array.dtype) == ([8, 3, 1, 5, 6], np.int32)
    assert not np.shares_memory(array, ids.array)
    staged.append(1 << 31)
    assert (staged.array, staged) == (None, [8, 3, 1, 5, 6, 1 << 31])


def test_it_is_installed_on_cuda_only_and_whole(replaced: None, monkeypatch: pytest.MonkeyPatch) -> None:
    before = vars(output.NewRequestData)["from_request"], states.RequestState.__init__

    def outcome() -> tuple[str, bool]:
        said = staged_ids.install()
        after = vars(output.NewRequestData)["from_request"], states.RequestState.__init__
        return said, after == before

    assert outcome() == ("untested_platform", True)
    monkeypatch.setattr(type(current_platform), "is_cuda", lambda self: True)
    with monkeypatch.context() as moved:
        moved.delattr(buffer_utils, "async_tensor_h2d")
        assert outcome() == ("vllm_seam_missing", True)
    assert outcome() == ("on", False)


@pytest.mark.usefixtures("on_cpu", "replaced")
@pytest.mark.parametrize("contents", [None, [1], np.zeros(3)])
def test_states_of_another_make_are_left_alone(contents: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = SimpleNamespace(_staged_write_contents=contents)
    monkeypatch.setattr(states, "StagedWriteTensor", lambda *args, **options: rows)
    assert new_state().all_token_ids._staged_write_contents is contents
