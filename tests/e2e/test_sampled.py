"""The model's own words on a real vLLM: gone on from as they were sampled, KV blocks included."""

from collections.abc import Awaitable, Callable
from itertools import pairwise
from string import ascii_lowercase
from typing import Any

import httpx
import numpy as np
import pytest
from openai import OpenAI

from app.conversation.records import Checkpoint
from app.local.model import DEFAULT_MODEL
from app.local.vllm import LocalVllm
from app.prefix.hashing import ids_hash
from tests.e2e.stack import caching, chat, path, rendered_ids
from tests.e2e.test_plugin import Call, call, reference, user

__all__ = ["call"]

CPU_BLOCK = 128
"""Tokens in a block of vLLM's KV cache on a CPU."""


@pytest.fixture(scope="module")
def letters(vllm_url: str) -> list[int]:
    """Ids of single letters and the blank: with nothing else a model spells what no tokenizer would."""

    def ids(text: str) -> list[int]:
        body = {"prompt": text, "add_special_tokens": False}
        found: list[int] = httpx.post(f"{vllm_url}/tokenize", json=body, timeout=60).json()["tokens"]
        return found

    return [token for letter in f"{ascii_lowercase} " for token in ids(letter)]


def test_each_turn_goes_on_from_the_answer_before(client: OpenAI) -> None:
    questions = ["Tell me about the sea.", "And about rivers?", "And about lakes?"]
    answers = chat(client, questions, max_output_tokens=150)
    for before, after in pairwise(answers):
        assert path(after) == ("hit", None)
        said = caching(after)["sampled_reused"]
        # All but the end token, which is the template's.
        assert said == before.usage.output_tokens - (before.status == "completed")  # type: ignore[union-attr]
        assert after.usage.input_tokens_details.cached_tokens >= _blocks(before.usage.input_tokens + said)  # type: ignore[union-attr]


def _blocks(tokens: int) -> int:
    """Tokens in the full blocks of so many."""
    return tokens // CPU_BLOCK * CPU_BLOCK


@pytest.mark.parametrize("policy", ["sampled", "canonical"])
def test_the_cache_covers_words_that_no_tokenizer_spells_so(
    policy: str, call: Call, letters: list[int], vllm_url: str
) -> None:
    settings = {
        "model": DEFAULT_MODEL,
        "temperature": 1,
        "max_completion_tokens": 200,
        "allowed_token_ids": letters,
        "return_token_ids": True,
    }
    asked = user("Tell me about rivers")
    first = call("POST", "/chat", messages=asked, chat=settings, policy=policy).json()
    margin = [
        {"role": "assistant", "content": first["choices"][0]["message"]["content"]},
        *user("And lakes?"),
    ]
    second = call(
        "POST", "/chat", messages=margin, prefix=reference(first["prefix"]), chat=settings, policy=policy
    ).json()
    before, receipt = first["prompt_token_ids"] + first["choices"][0]["token_ids"], second["prefix"]
    canonical = rendered_ids(vllm_url, [*asked, *margin])
    assert (receipt["path"], len(before)) == ("hit", first["prefix"]["tokens"] + 200)
    if policy == "canonical":
        assert receipt["sampled_reused"] == 0
        assert second["prompt_token_ids"] == canonical
    else:
        assert receipt["sampled_reused"] == 200
        assert second["prompt_token_ids"][: len(before)] == before
        assert receipt["cached_tokens"] >= _blocks(len(before)) > _blocks(first["prefix"]["tokens"])
        assert len(canonical) < receipt["tokens"]


async def test_the_canonical_policy_of_the_service_gives_the_ids_of_the_full_render(
    client_for: Callable[..., OpenAI],
    vllm: LocalVllm,
    checkpoints: Callable[[str], Awaitable[Checkpoint | None]],
) -> None:
    client = client_for(vllm.url, prefix_policy="canonical")
    asked = ["Tell me about clouds.", "And about rain?"]
    first, second = chat(client, asked, max_output_tokens=60, temperature=1)
    assert path(second) == ("hit", None)
    assert caching(second)["sampled_reused"] == 0
    messages = [
        {"role": "user", "content": asked[0]},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": asked[1]},
    ]
    checkpoint = await checkpoints(second.id)
    assert checkpoint is not None
    assert checkpoint.prefix_hash == ids_hash(np.array(rendered_ids(vllm.url, messages), "<i4").data)


def continue_(call: Call, chat: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The answer's text, then receipts of its turn and the next."""
    chat = {"model": DEFAULT_MODEL, "temperature": 0, "max_completion_tokens": 60, **chat}
    done = call("POST", "/chat", messages=user("Tell me about rivers"), chat=chat).json()
    message = done["choices"][-1]["message"]
    margin = [{"role": "assistant", "content": message["content"]}, *user("And lakes?")]
    next_turn = call("POST", "/chat", messages=margin, prefix=reference(done["prefix"]), chat=chat).json()
    return message["content"], done, next_turn["prefix"]


def test_what_a_stop_string_cut_off_is_not_gone_on_from(call: Call) -> None:
    text, done, receipt = continue_(call, {"stop": [" the", "e"]})
    assert done["choices"][0]["finish_reason"] == "stop"
    assert "e" not in text
    said = done["usage"]["completion_tokens"]
    # The tokens that made up the stop string are left out; where one held more than that, so is all.
    assert 0 <= receipt["sampled_reused"] < said
    assert receipt["path"] == "hit"


def test_each_of_several_answers_can_be_gone_on_from(call: Call, letters: list[int]) -> None:
    # Hot and without the blank: else two of them may be nothing but blanks.
    chat = {"n": 3, "temperature": 2, "max_completion_tokens": 20, "allowed_token_ids": letters[:-1]}
    _, done, receipt = continue_(call, chat)
    assert len({choice["message"]["content"] for choice in done["choices"]}) == 3
    assert receipt["sampled_reused"] == 20


def test_beams_are_not_gone_on_from(call: Call) -> None:
    _, _, receipt = continue_(
        call, {"use_beam_search": True, "n": 2, "max_completion_tokens": 8, "temperature": 0}
    )
    assert (receipt["path"], receipt["sampled_reused"]) == ("hit", 0)


def test_a_client_without_state_goes_on_from_sampled_ids_too(call: Call, letters: list[int]) -> None:
    chat = {"model": DEFAULT_MODEL, "max_completion_tokens": 40, "allowed_token_ids": letters}
    asked = user("Tell me about rivers")
    first = call("POST", "/chat", messages=asked, chat=chat).json()
    message = {"role": "assistant", "content": first["choices"][0]["message"]["content"]}
    receipt = call("POST", "/chat", messages=[*asked, message, *user("And lakes?")], chat=chat).json()[
        "prefix"
    ]
    assert (receipt["path"], receipt["reason"]) == ("hit", "found_by_content")
    assert receipt["sampled_reused"] == 40
