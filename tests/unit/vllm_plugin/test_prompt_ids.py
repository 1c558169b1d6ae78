"""Ids that travel as a buffer arrive as the list that vLLM would have sent; with vLLM's own transport."""

import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.renderers.base import BaseRenderer
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.request import Request
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from app.vllm_plugin.prompt_ids import PromptIds, check_range, packed, unpacked

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


class _Tokenizer:
    max_token_id = 99


class _Renderer:
    """As much of a renderer as the check of the range asks for."""

    tokenizer = _Tokenizer()
    model_config = type("Config", (), {"get_vocab_size": staticmethod(lambda: 90)})
    validate_token_ids = BaseRenderer.validate_token_ids


@given(ids=st.lists(st.integers(-2, 103), max_size=6))
def test_the_same_ids_are_out_of_range(ids: list[int]) -> None:
    def outcome(check: Any, given_ids: list[int]) -> str | None:
        try:
            return check(given_ids, parameter="p")  # type: ignore[no-any-return]
        except VLLMValidationError as exc:
            return str(exc)

    stock = _Renderer().validate_token_ids  # type: ignore[misc]
    ours = check_range(stock)
    assert outcome(ours, prompt_ids(ids)) == outcome(stock, ids)
    assert outcome(ours, ids) == outcome(stock, ids)


@pytest.mark.parametrize("operation", [lambda i: i[1:], lambda i: i.copy()])
def test_what_is_made_of_it_is_a_plain_list(operation: Any) -> None:
    assert type(operation(prompt_ids([1, 2, 3]))) is list
