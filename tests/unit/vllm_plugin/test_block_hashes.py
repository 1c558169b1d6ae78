"""Resumed block hashes are vLLM's own, whatever was hashed before; with vLLM's Request and hash functions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from vllm import SamplingParams
from vllm.lora.request import LoRARequest
from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.request import Request

from app.vllm_plugin.block_hashes import CHUNK_TOKENS, ResumedHasher
from app.vllm_plugin.prompt_ids import PromptIds

LORAS = (None, LoRARequest("a", 1, "/a"), LoRARequest("b", 2, "/b"))


def stock_hasher(block_tokens: int, algorithm: str = "sha256") -> Callable[[Request], Any]:
    hash_function = get_hash_fn_by_name(algorithm)
    init_none_hash(hash_function)
    return get_request_block_hasher(block_tokens, hash_function)


def request(ids: list[int] | None, hasher: Any, salt: str | None = "n", **fields: Any) -> Request:
    params = SamplingParams(max_tokens=999)
    return Request("r", ids, params, None, cache_salt=salt, block_hasher=hasher, **fields)


def numbers(count: int, first: int = 0) -> list[int]:
    return [(first + n * 7919) % 150_000 for n in range(count)]


@pytest.mark.parametrize("algorithm", ["sha256", "sha256_cbor"])
@pytest.mark.parametrize("block_tokens", [1, 16, 48, 128, 1500])
@settings(max_examples=40)
@given(data=st.data())
def test_the_same_hashes_as_vllms(algorithm: str, block_tokens: int, data: st.DataObject) -> None:
    """Conversations that grow, branch, are edited and change tenants and adapters, with room for few."""
    stock = stock_hasher(block_tokens, algorithm)
    resumed = ResumedHasher(
        stock, block_tokens, resident_tokens=data.draw(st.sampled_from([1, 9000, 1 << 20]))
    )
    prompts = [numbers(3000)]
    for _ in range(data.draw(st.integers(1, 8))):
        ids = list(data.draw(st.sampled_from(prompts)))
        del ids[data.draw(st.integers(0, len(ids))) :]
        ids += numbers(data.draw(st.integers(0, 3000)), data.draw(st.integers(0, 2)))
        if ids and data.draw(st.booleans()):
            ids[data.draw(st.integers(0, len(ids) - 1))] ^= 1
        prompts.append(ids)
        salt = data.draw(st.sampled_from(["n", "m", "", None]))
        lora = data.draw(st.sampled_from(LORAS))
        ours, theirs = (request(list(ids), hasher, salt, lora_request=lora) for hasher in (resumed, stock))
        for generated in data.draw(st.lists(st.integers(0, 9), max_size=3)):
            ours.append_output_token_ids([generated] * 40)
            theirs.append_output_token_ids([generated] * 40)
        assert ours.block_hashes == theirs.block_hashes


@pytest.mark.parametrize("block_tokens", [16, 128])
def test_what_a_prompt_shares_with_an_earlier_one_is_not_hashed_again(block_tokens: int) -> None:
    hashed: list[int] = []
    stock = stock_hasher(block_tokens)

    def counting(request: Request) -> list[Any]:
        new = stock(request)
        hashed.append(len(new))
        return new

    resumed = ResumedHasher(counting, block_tokens)
    ids = numbers(5 * CHUNK_TOKENS)
    longer = ids + numbers(block_tokens, 5)
    for prompt in (ids, longer, longer):
        request(prompt, resumed)
    request(longer, resumed, salt="another tenant")
    whole = len(longer) // block_tokens
    assert hashed == [len(ids) // block_tokens, 1, 1, whole]


def test_a_list_and_a_buffer_are_one_prompt() -> None:
    stock = stock_hasher(16)
    resumed = ResumedHasher(stock, 16)
    ids = numbers(2 * CHUNK_TOKENS)
    request(ids, resumed)
    buffered = request(PromptIds(np.array(ids, np.int32)), resumed)
    assert resumed.reused_blocks == 2 * CHUNK_TOKENS // 16
    assert buffered.block_hashes == request(ids, stock).block_hashes


def test_the_least_recently_used_is_forgotten() -> None:
    resumed = ResumedHasher(stock_hasher(16), 16, resident_tokens=2 * CHUNK_TOKENS)
    first, second, third = (numbers(CHUNK_TOKENS, n) for n in (1, 2, 3))
    for ids in (first, second, first, third, first, second):
        request(ids, resumed)
    assert resumed.reused_blocks == 2 * CHUNK_TOKENS // 16


def test_images_embeddings_and_impossible_ids_are_vllms_own_business() -> None:
    stock = stock_hasher(16)
    resumed = ResumedHasher(stock, 16)
    for ids, embeds in ((None, torch.zeros(2048, 4)), ([1 << 40] * 2048, None)):
        for _ in range(2):
            ours, theirs = (request(ids, hasher, prompt_embeds=embeds) for hasher in (resumed, stock))
            assert ours.block_hashes == theirs.block_hashes
            assert len(ours.block_hashes) == 128
    assert resumed.reused_blocks == 0
