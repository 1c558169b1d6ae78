"""A prompt's token ids that travel as one buffer, in the place of a list of a hundred thousand numbers.

Each of vLLM's processes wants a list, and between them it is packed number by number, unpacked, walked for
its range and copied into arrays. Here the list knows the array that it was made of. It is still a list, equal
to the one that vLLM would have; only some take the array instead: the way to the engine core (`packed`,
`unpacked`), pickling on the way to a worker, the check of the range (`check_range`), numpy, and the rows of
token ids on the GPU (staged_ids.py).

The array is the list for as long as nobody has changed the list: whatever changes one forgets the array
(`forget_when_changed`), and copies and slices are plain lists, which never had one. vLLM does change prompts:
a streaming session's grows, and a KV connector may take the last token away, in whose place another comes.

Seen in vLLM 0.26.0 and 0.32.0: v1/engine/{core_client,core,input_processor}.py, v1/request.py,
v1/core/sched/scheduler.py, v1/worker/gpu_input_batch.py; only in 0.32.0: renderers/base.py.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

CHANGING = (
    *("__delitem__", "__iadd__", "__imul__", "__setitem__", "append", "clear", "extend"),
    *("insert", "pop", "remove", "reverse", "sort"),
)
"""The methods by which a list is changed."""


def forget_when_changed(cls: type[list[int]], *, knows: tuple[str, ...] = ()) -> None:
    """Let each method that changes a list call `_forget` first, but for those that `cls` `knows` itself."""

    def forgetting(stock: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(stock)
        def changing(self: Any, *args: Any, **options: Any) -> Any:
            self._forget()
            return stock(self, *args, **options)

        return changing

    for name in set(CHANGING) - set(knows):
        setattr(cls, name, forgetting(getattr(list, name)))


class PromptIds(list[int]):
    """A list of token ids with the int32 array, shape (tokens,), of which it is made."""

    __slots__ = ("_array",)

    def __init__(self, array: npt.NDArray[np.int32]) -> None:
        super().__init__(array.tolist())
        self._array: npt.NDArray[np.int32] | None = array

    @classmethod
    def from_bytes(cls, ids: bytes) -> "PromptIds":
        """From native int32."""
        return cls(np.frombuffer(ids, np.int32))

    @property
    def array(self) -> npt.NDArray[np.int32] | None:
        """None once the list was changed."""
        return self._array

    def _forget(self) -> None:
        self._array = None

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> npt.NDArray[Any]:
        array = self.array
        return np.array(list(self) if array is None else array, dtype=dtype, copy=copy)

    def __reduce__(self) -> tuple[Any, ...]:
        # Bytes and not the array: a worker reads its messages from shared memory that is soon written anew.
        array = self.array
        return (list, (list(self),)) if array is None else (PromptIds.from_bytes, (array.tobytes(),))


forget_when_changed(PromptIds)


def array_of(ids: Any) -> npt.NDArray[np.int32] | None:
    """The array that `ids` are, where they know it."""
    return ids.array if isinstance(ids, PromptIds) else None


def packed(request: Any) -> Any:
    """An EngineCoreRequest for the way to the engine core: its ids are a tensor, sent as it lies."""
    array = array_of(request.prompt_token_ids)
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
        stock(_ends(token_ids), **options)

    return validate_token_ids


def check_input(stock: Callable[..., None], check_length: Callable[..., None]) -> Callable[..., None]:
    """As `stock`, an input processor's `_validate_model_input` of vLLM 0.26, which checks the range itself.

    `check_length`, its own `_validate_prompt_len`, sees the whole prompt's length.
    """

    def validate_model_input(prompt: Any, prompt_type: str) -> None:
        ids = None if prompt["type"] == "embeds" else prompt["prompt_token_ids"]
        ends = _ends(ids)
        if ends is not ids:
            check_length(len(ids or ()), prompt_type)
            prompt = {**prompt, "prompt_token_ids": ends}
        stock(prompt, prompt_type=prompt_type)

    return validate_model_input


def _ends(ids: Any) -> Any:
    """The smallest and the largest of more than two `ids` whose array is known, else `ids`."""
    array = array_of(ids)
    return ids if array is None or len(array) <= 2 else [int(array.min()), int(array.max())]
