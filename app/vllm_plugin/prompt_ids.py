"""A prompt's token ids that travel as one buffer, in the place of a list of a hundred thousand numbers.

Each of vLLM's processes wants a list, and between them it is packed number by number, unpacked, walked for
its range and copied into arrays. Here the list knows the array that it was made of. It is still a list, equal
to the one that vLLM would have; only some take the array instead: the way to the engine core (`packed`,
`unpacked`), pickling on the way to a worker, the check of the range (`check_range`), and numpy.

Seen in vLLM 0.32.0: v1/engine/{core_client,core}.py, v1/worker/gpu_input_batch.py, renderers/base.py.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch


class PromptIds(list[int]):
    """A list of token ids with the int32 array, shape (tokens,), of which it is made."""

    __slots__ = ("_array",)

    def __init__(self, array: npt.NDArray[np.int32]) -> None:
        super().__init__(array.tolist())
        self._array = array

    @classmethod
    def from_bytes(cls, ids: bytes) -> "PromptIds":
        """From native int32."""
        return cls(np.frombuffer(ids, np.int32))

    @property
    def array(self) -> npt.NDArray[np.int32] | None:
        """None once the list has grown or shrunk: vLLM extends the prompt of a streaming session."""
        return self._array if len(self._array) == len(self) else None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        array = self.array
        return np.array(list(self) if array is None else array, dtype=dtype, copy=copy)

    def __reduce__(self) -> tuple[Any, ...]:
        # Bytes and not the array: a worker reads its messages from shared memory that is soon written anew.
        array = self.array
        return (list, (list(self),)) if array is None else (PromptIds.from_bytes, (array.tobytes(),))


def packed(request: Any) -> Any:
    """An EngineCoreRequest for the way to the engine core: its ids are a tensor, sent as it lies."""
    ids = request.prompt_token_ids
    array = ids.array if isinstance(ids, PromptIds) else None
    if array is None or not len(array) or request.prompt_embeds is not None:
        return request
    request = copy.copy(request)
    request.prompt_token_ids = None
    # Embeddings are of two dimensions and never whole numbers, so these cannot be taken for some.
    request.prompt_embeds = torch.from_numpy(np.ascontiguousarray(array))
    return request


def unpacked(request: Any) -> Any:
    """Undoes `packed`, in place."""
    tensor = request.prompt_embeds
    if request.prompt_token_ids is None and tensor is not None and tensor.dtype == torch.int32:
        request.prompt_token_ids = PromptIds(tensor.numpy().copy())
        request.prompt_embeds = None
    return request


def check_range(stock: Callable[..., None]) -> Callable[..., None]:
    """As `stock`, a renderer's `validate_token_ids`, which looks at the smallest and the largest id only."""

    def validate_token_ids(token_ids: Any, **options: Any) -> None:
        array = token_ids.array if isinstance(token_ids, PromptIds) else None
        if array is not None and len(array):
            token_ids = [int(array.min()), int(array.max())]
        stock(token_ids, **options)

    return validate_token_ids
