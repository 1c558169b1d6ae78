"""Ids that travel as a buffer arrive as the list that vLLM would have sent; with vLLM's own transport."""

import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.renderers.base import BaseRenderer
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.engine.input_processor import InputProcessor
from vllm.v1.request import Request
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from app.vllm_plugin.prompt_ids import CHANGING, PromptIds, check_input, check_range, packed, unpacked

IDS = st.lists(st.integers(0, 2**31 - 1), max_size=300)


def prompt_ids(ids: list[int]) -> PromptIds:
    return PromptIds(np.array(ids, np.int32))


def engine_request(ids: Any, **fields: Any) -> EngineCoreRequest:
    known = {
        "mm_features": None,
        "sampling_params": SamplingParams(max_tokens=5),
        "pooling_params": None,
        "arrival_time": 1.5,
        "lora_request": None,
        "cache_salt": "n",
        "data_parallel_rank": None,
        "priority": 3,
    }
    return EngineCoreRequest(request_id="r", prompt_token_ids=ids, **{**known, **fields})


def sent(request: EngineCoreRequest) -> EngineCoreRequest:
    """As the engine core gets it."""
    frames = [bytearray(frame) for frame in MsgpackEncoder().encode(request)]
    decoded: EngineCoreRequest = MsgpackDecoder(EngineCoreRequest).decode(frames)
    return decoded


@given(ids=IDS)
def test_the_engine_core_gets_the_same_request(ids: list[int]) -> None:
    request = engine_request(prompt_ids(ids))
    ours, stock = unpacked(sent(packed(request))), sent(engine_request(ids))
    assert type(ours.prompt_token_ids) is (PromptIds if ids else list)
    for field in EngineCoreRequest.__struct_fields__:
        assert getattr(ours, field) == getattr(stock, field) or field == "sampling_params", field
    assert str(ours.sampling_params) == str(stock.sampling_params)
    assert all(type(i) is int for i in ours.prompt_token_ids)
    # What the API process goes on with is untouched.
    assert request.prompt_token_ids == ids
    assert request.prompt_embeds is None


@given(ids=IDS)
def test_without_our_part_on_the_way_it_is_a_list_like_any_other(ids: list[int]) -> None:
    assert sent(engine_request(prompt_ids(ids))).prompt_token_ids == ids


def test_other_requests_are_sent_as_they_are() -> None:
    embeds = torch.ones(3, 4)
    for request in (engine_request([1, 2]), engine_request(None, prompt_embeds=embeds)):
        assert packed(request) is request
        again = sent(request)
        assert unpacked(again) is again
        assert again.prompt_token_ids == request.prompt_token_ids
    assert torch.equal(unpacked(sent(engine_request(None, prompt_embeds=embeds))).prompt_embeds, embeds)


@given(ids=IDS)
def test_a_worker_gets_the_same_list_and_numpy_the_same_row(ids: list[int]) -> None:
    arrived = pickle.loads(pickle.dumps(prompt_ids(ids), protocol=pickle.HIGHEST_PROTOCOL))
    assert (type(arrived), arrived) == (PromptIds, ids)
    row = np.zeros(len(ids) + 2, np.int32)
    row[1 : len(ids) + 1] = arrived
    assert row.tolist() == [0, *ids, 0]
    assert np.array_equal(np.asarray(arrived, dtype=np.int64), np.array(ids, np.int64))


def test_a_prompt_that_grows_forgets_its_array() -> None:
    """As a streaming session's does, in the engine core."""
    ids = prompt_ids([1, 2, 3])
    request = Request("r", ids, SamplingParams(max_tokens=5), None)
    request.append_output_token_ids(9)
    assert request.all_token_ids[:] == [1, 2, 3, 9]
    assert request.prompt_token_ids == [1, 2, 3]
    ids.extend([4])
    assert ids.array is None
    assert np.asarray(ids).tolist() == [1, 2, 3, 4]
    assert pickle.loads(pickle.dumps(ids)) == [1, 2, 3, 4]
    assert packed(engine_request(ids)).prompt_token_ids == [1, 2, 3, 4]


CHANGES: dict[str, Callable[[Any], Any]] = {
    "__delitem__": lambda ids: ids.__delitem__(slice(-1, None)),
    "__iadd__": lambda ids: ids.__iadd__([4]),
    "__imul__": lambda ids: ids.__imul__(2),
    "__setitem__": lambda ids: ids.__setitem__(0, 4),
    "append": lambda ids: ids.append(4),
    "clear": lambda ids: ids.clear(),
    "extend": lambda ids: ids.extend([4]),
    "insert": lambda ids: ids.insert(0, 4),
    "pop": lambda ids: ids.pop(),
    "remove": lambda ids: ids.remove(1),
    "reverse": lambda ids: ids.reverse(),
    "sort": lambda ids: ids.sort(),
}


def test_these_are_all_ways_to_change_a_list() -> None:
    assert set(CHANGES) == set(CHANGING) == set(dir(list)) - set(dir(tuple)) - {"copy", "__reversed__"}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_changes_the_ids_forgets_the_array(change: str) -> None:
    ids, expected = prompt_ids([3, 1, 2]), [3, 1, 2]
    for each in (ids, expected):
        CHANGES[change](each)
    assert (ids, ids.array) == (expected, None)
    assert np.asarray(ids).tolist() == pickle.loads(pickle.dumps(ids)) == expected


def test_another_last_token_is_not_taken_for_the_first() -> None:
    """As with vLLM's connectors that move KV caches: they take the prompt's last token from a request."""
    ids = prompt_ids([1, 2, 3])
    request = Request("r", ids, SamplingParams(max_tokens=5), None)
    ids.pop()
    request._all_token_ids.pop()
    ids.append(7)
    request.append_output_token_ids(7)
    for known in (ids, request.prompt_token_ids, request._all_token_ids):
        assert np.asarray(known).tolist() == [1, 2, 7]


class _Tokenizer:
    max_token_id = 99


class _Renderer:
    """As much of a renderer as the check of the range asks for."""

    tokenizer = _Tokenizer()
    model_config = SimpleNamespace(get_vocab_size=lambda: 90, max_model_len=5, runner_type="generate")
    if hasattr(BaseRenderer, "validate_token_ids"):
        validate_token_ids = BaseRenderer.validate_token_ids


class _Inputs(_Renderer):
    """As much of an input processor, which in vLLM 0.26 checks the range itself."""

    renderer = _Renderer()
    skip_prompt_length_check = supports_mm_inputs = False
    mm_encoder_cache_size = 4
    _validate_prompt_len = InputProcessor._validate_prompt_len
    _validate_model_input = InputProcessor._validate_model_input


def said(check: Callable[..., None], *arguments: Any, **options: Any) -> str | None:
    try:
        return check(*arguments, **options)
    except (ValueError, VLLMValidationError) as exc:
        return str(exc)


RANGE = st.lists(st.integers(-2, 103), max_size=6)


@pytest.mark.skipif(not hasattr(BaseRenderer, "validate_token_ids"), reason="vLLM 0.26 has it elsewhere")
@given(ids=RANGE)
def test_the_same_ids_are_out_of_range(ids: list[int]) -> None:
    stock = _Renderer().validate_token_ids  # type: ignore[misc]
    ours = check_range(stock)
    assert said(ours, prompt_ids(ids), parameter="p") == said(stock, ids, parameter="p")
    assert said(ours, ids, parameter="p") == said(stock, ids, parameter="p")


@given(
    ids=RANGE,
    kind=st.sampled_from(["token", "embeds", "multimodal"]),
    prompt_type=st.sampled_from(["encoder", "decoder"]),
    image=st.integers(3, 6),
    most=st.integers(1, 6),
)
@example(ids=[5], kind="token", prompt_type="decoder", image=3, most=2)
def test_the_same_prompts_are_refused(
    ids: list[int], kind: str, prompt_type: str, image: int, most: int
) -> None:
    inputs = _Inputs()
    inputs.model_config = SimpleNamespace(**{**vars(_Renderer.model_config), "max_model_len": most})
    stock = inputs._validate_model_input  # type: ignore[misc]
    ours = check_input(stock, inputs._validate_prompt_len)  # type: ignore[misc]
    embedded = SimpleNamespace(get_num_embeds=lambda: image)
    prompt: Any = {
        "type": kind,
        "prompt_embeds": torch.zeros(len(ids), 2),
        "mm_placeholders": {"image": [embedded]},
    }
    whole = said(stock, {**prompt, "prompt_token_ids": ids}, prompt_type)
    given_ids = prompt_ids(ids)
    assert said(ours, {**prompt, "prompt_token_ids": given_ids}, prompt_type=prompt_type) == whole
    assert (given_ids, given_ids.array is None) == (ids, False)


@pytest.mark.parametrize("operation", [lambda i: i[1:], lambda i: i.copy()])
def test_what_is_made_of_it_is_a_plain_list(operation: Any) -> None:
    assert type(operation(prompt_ids([1, 2, 3]))) is list
