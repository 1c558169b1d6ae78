"""A new request's row of token ids on the GPU, written from the prompt's array and not number by number.

vLLM's model runner V2 stages the ids of a step's new requests in one list, of which it makes a tensor (11 ms
for 119k ids), and copies that into their rows. Here this list too knows the arrays of which it was made.

The runner is not given the prompt but the scheduler's own list of prompt and output. Where that equals the
prompt, the prompt is given in its place: compared in full, which takes 0.1 ms, because vLLM's copy has the
same objects. So the list to which sampled tokens are appended never has an array, and a request that comes
back after it was preempted is staged as vLLM does it. What is staged is copied before it is used.

Seen in vLLM 0.26.0 and 0.32.0: v1/worker/gpu/{states,buffer_utils,model_runner}.py, v1/core/sched/output.py.
"""

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from app.vllm_plugin.prompt_ids import array_of, forget_when_changed

logger = logging.getLogger("vllm.marginalia")


class StagedIds(list[int]):
    """In the place of a `StagedWriteTensor`'s list of staged int32 contents."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        super().__init__()
        self._known: list[tuple[int, npt.NDArray[np.int32]]] = []
        """Where in the list an array was added."""

    def extend(self, ids: Iterable[int]) -> None:
        array = array_of(ids)
        if array is not None:
            self._known.append((len(self), array))
        # A slice is a plain list, which is added in one go.
        super().extend(ids if array is None else ids[:])  # type: ignore[index]

    @property
    def array(self) -> npt.NDArray[np.int32] | None:
        """All ids, a copy of shape (ids,); None where no array is known or an id is none of int32."""
        if not self._known:
            return None
        array = np.empty(len(self), np.int32)
        done = 0
        try:
            for start, known in self._known:
                array[done:start] = self[done:start]
                done = start + len(known)
                array[start:done] = known
            array[done:] = self[done:]
        except OverflowError:
            return None
        return array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        array = self.array
        return np.array(self[:] if array is None else array, dtype=dtype, copy=copy)

    def _forget(self) -> None:
        self._known = []


forget_when_changed(StagedIds, knows=("append", "extend"))


def _pinned(array: npt.NDArray[np.int32]) -> torch.Tensor:
    """A copy in the memory from which a GPU reads. Made by numpy: for more than 32k ids torch takes all its
    threads, which then spin for longer than the copy takes."""
    from vllm.utils.platform_utils import is_pin_memory_available

    pinned = torch.empty(len(array), dtype=torch.int32, pin_memory=is_pin_memory_available())
    pinned.numpy()[:] = array
    return pinned


def install() -> str:
    """Prepare this process, should it be a scheduler's or a model runner's: `on`, or why it is left alone."""
    from vllm.platforms import current_platform

    if not current_platform.is_cuda():
        return "untested_platform"
    try:
        from vllm.v1.core.sched import output
        from vllm.v1.worker.gpu import buffer_utils, states

        replace(output, states, buffer_utils)
    except (ImportError, AttributeError):
        logger.warning("Marginalia leaves the ids on their way to the GPU as they are", exc_info=True)
        return "vllm_seam_missing"
    return "on"


def replace(output: Any, states: Any, buffer_utils: Any) -> None:
    """Replace what these three modules of vLLM do with a new request's ids; all, or AttributeError."""
    stock_from_request = output.NewRequestData.from_request.__func__
    stock_init = states.RequestState.__init__
    stock_h2d = buffer_utils.async_tensor_h2d

    def from_request(
        cls: Any, /, request: Any, block_ids: Any, prefill_token_ids: Any = None, **options: Any
    ) -> Any:
        ids = request.prompt_token_ids
        if array_of(ids) is not None and ids == prefill_token_ids:
            prefill_token_ids = ids
        return stock_from_request(cls, request, block_ids, prefill_token_ids, **options)

    def init(self: Any, *args: Any, **options: Any) -> None:
        stock_init(self, *args, **options)
        staged = getattr(getattr(self, "all_token_ids", None), "_staged_write_contents", None)
        if isinstance(staged, list) and not staged:
            self.all_token_ids._staged_write_contents = StagedIds()

    def async_tensor_h2d(data: Any, *args: Any, **options: Any) -> Any:
        array = data.array if isinstance(data, StagedIds) else None
        return stock_h2d(data if array is None else _pinned(array), *args, **options)

    output.NewRequestData.from_request = classmethod(from_request)
    states.RequestState.__init__ = init
    buffer_utils.async_tensor_h2d = async_tensor_h2d
