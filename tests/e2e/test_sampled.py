"""The model's own words on a real vLLM: gone on from as they were sampled, KV blocks included."""

import secrets
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import httpx
import numpy as np
from openai import OpenAI

from app.conversation.records import Checkpoint
from app.local.model import DEFAULT_MODEL
from app.local.vllm import LocalVllm
from app.prefix.hashing import ids_hash
from tests.e2e.stack import ask, caching, path, rendered_ids
from tests.e2e.test_plugin import Call, call, reference, user

__all__ = ["call"]

CPU_BLOCK = 128
"""Tokens in a block of vLLM's KV cache on a CPU."""


def say(client: OpenAI, question: str, previous: str | None = None, **fields: Any) -> Any:
    """So hot that the model spells words in pieces which no tokenizer makes."""
    fields = {"temperature": 1.3, "top_p": 0.95, "max_output_tokens": 150, **fields}
    return ask(client, question, previous, **fields)


def question() -> str:
    return f"Tell me about {secrets.token_hex(4)}."


def test_the_cache_covers_the_models_own_words(client: OpenAI) -> None:
    answers = [say(client, question())]
    for _ in range(2):
        answers.append(say(client, question(), answers[-1].id))
    # A model this hot also says bytes that are no character: of such a text the ids cannot be told.
    readable = [pair for pair in pairwise(answers) if "\ufffd" not in pair[0].output_text]
    assert readable
    for before, after in readable:
        assert path(after) == ("hit", None)
        said = caching(after)["sampled_reused"]
        # A sampled end token is the template's, and half a character is nobody's.
        assert before.usage.output_tokens - 4 <= said <= before.usage.output_tokens
        cached = after.usage.input_tokens_details.cached_tokens
        assert cached >= (before.usage.input_tokens + said) // CPU_BLOCK * CPU_BLOCK


async def test_the_canonical_policy_gives_the_ids_of_the_full_render(
    client_for: Callable[..., OpenAI],
    vllm: LocalVllm,
    checkpoints: Callable[[str], Awaitable[Checkpoint | None]],
) -> None:
    client = client_for(vllm.url, prefix_policy="canonical")
    asked = [question(), question()]
    first = say(client, asked[0])
    second = say(client, asked[1], first.id, max_output_tokens=1)
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
    chat = {"model": DEFAULT_MODEL, "temperature": 1.2, "max_completion_tokens": 60, **chat}
    done = call("POST", "/chat", messages=user("Tell me about rivers"), chat=chat).json()
    message = done["choices"][-1]["message"]
    margin = [{"role": "assistant", "content": message["content"]}, *user("And lakes?")]
    next_turn = call("POST", "/chat", messages=margin, prefix=reference(done["prefix"]), chat=chat).json()
    return message["content"], done, next_turn["prefix"]


def test_what_a_stop_string_cut_off_is_not_gone_on_from(call: Call) -> None:
    text, done, receipt = continue_(call, {"stop": [" the", "e"], "seed": 1})
    assert done["choices"][0]["finish_reason"] == "stop"
    assert "e" not in text
    said = done["usage"]["completion_tokens"]
    # The tokens that made up the stop string are left out; where one held more than that, so is all.
    assert 0 <= receipt["sampled_reused"] < said
    assert receipt["path"] == "hit"


def test_each_of_several_answers_can_be_gone_on_from(call: Call) -> None:
    _, done, receipt = continue_(call, {"n": 3, "seed": 5, "max_completion_tokens": 20})
    assert len(done["choices"]) == 3
    assert receipt["sampled_reused"] >= 16


def test_beams_are_not_gone_on_from(call: Call) -> None:
    _, _, receipt = continue_(
        call, {"use_beam_search": True, "n": 2, "max_completion_tokens": 8, "temperature": 0}
    )
    assert (receipt["path"], receipt["sampled_reused"]) == ("hit", 0)


def test_a_client_without_state_goes_on_from_sampled_ids_too(call: Call, vllm_url: str) -> None:
    chat = {"model": DEFAULT_MODEL, "temperature": 1.2, "seed": 2, "max_completion_tokens": 40}
    asked = user("Tell me about rivers")
    first = call("POST", "/chat", messages=asked, chat=chat).json()
    message = {"role": "assistant", "content": first["choices"][0]["message"]["content"]}
    whole = [*asked, message, *user("And lakes?")]
    receipt = call("POST", "/chat", messages=whole, chat=chat).json()["prefix"]
    assert (receipt["path"], receipt["reason"]) == ("hit", "found_by_content")
    assert receipt["sampled_reused"] >= first["usage"]["completion_tokens"] - 4
    assert httpx.get(f"{vllm_url}/health", timeout=10).status_code == 200
