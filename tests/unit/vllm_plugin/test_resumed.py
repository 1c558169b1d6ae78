"""An answer that goes on after tokens sampled before: what the engine is asked, and what it seems to say."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

from app.vllm_plugin.prompt_ids import PromptIds
from app.vllm_plugin.resumed import can_be_resumed, resumed
from tests.unit.vllm_plugin.test_tokenization import END, START, build, plain

TOKENIZER = build(plain(START), plain(END))
PROMPT = {"prompt_token_ids": TOKENIZER.encode(f"{START}user\nhello{END}"), "cache_salt": "n"}
CONFIG = SimpleNamespace(
    model_config=SimpleNamespace(logits_processors=None, get_vocab_size=lambda: len(TOKENIZER))
)


def params(**options: Any) -> SamplingParams:
    return SamplingParams(**{"output_kind": RequestOutputKind.DELTA, "max_tokens": 100, **options})


@dataclass
class Engine:
    """Says the next tokens of an answer, several at a time. asked: prompt, parameters."""

    steps: list[list[int]]
    reason: str = "length"
    asked: list[Any] = field(default_factory=list)

    async def generate(self, prompt: Any, params: Any, request_id: str) -> AsyncIterator[Any]:
        self.asked += [prompt, params, request_id]
        for at, tokens in enumerate(self.steps, 1):
            reason = self.reason if at == len(self.steps) else None
            choice = SimpleNamespace(
                index=0, text="", token_ids=tokens, finish_reason=reason, stop_reason=None
            )
            yield SimpleNamespace(
                prompt_token_ids=prompt["prompt_token_ids"],
                outputs=[choice],
                finished=reason is not None,
                num_cached_tokens=len(prompt["prompt_token_ids"]),
            )


async def told(engine: Engine, said: list[int], **options: Any) -> list[tuple[str, list[int], str | None]]:
    given = resumed(engine.generate, TOKENIZER, said, PROMPT, params(**options), "id")
    outputs = [output async for output in given]
    assert all(output.prompt_token_ids == PROMPT["prompt_token_ids"] for output in outputs)
    assert {output.num_cached_tokens for output in outputs} == {len(PROMPT["prompt_token_ids"])}
    assert [output.finished for output in outputs] == [False] * (len(outputs) - 1) + [True]
    choices = [output.outputs[0] for output in outputs]
    return [(choice.text, choice.token_ids, choice.finish_reason) for choice in choices]


async def test_the_answer_is_whole() -> None:
    ids = TOKENIZER.encode("naïve 你好 🙂, hello world", add_special_tokens=False)
    for count in range(1, len(ids) - 1):
        engine = Engine([ids[count:-1], ids[-1:]])
        heard = await told(engine, ids[:count])
        assert "".join(text for text, _, _ in heard) == "naïve 你好 🙂, hello world"
        assert [tokens for _, tokens, _ in heard] == [*([i] for i in ids[:count]), ids[count:-1], ids[-1:]]
        assert [reason for _, _, reason in heard] == [None] * (count + 1) + ["length"]
        prompt, asked, request_id = engine.asked
        assert prompt == {**PROMPT, "prompt_token_ids": [*PROMPT["prompt_token_ids"], *ids[:count]]}
        assert isinstance(prompt["prompt_token_ids"], PromptIds)
        assert (asked.max_tokens, asked.detokenize, request_id) == (100 - count, False, "id")


async def test_an_end_token_is_not_read_out() -> None:
    hello, end = TOKENIZER.encode("hello", add_special_tokens=False), TOKENIZER.convert_tokens_to_ids(END)
    heard = await told(Engine([[end]], "stop"), hello, skip_special_tokens=False)
    assert ("".join(text for text, _, _ in heard), heard[-1]) == ("hello", ("", [end], "stop"))


@pytest.mark.parametrize("beyond", [0, 1])
async def test_an_answer_that_had_all_its_tokens_gets_no_other(beyond: int) -> None:
    """It was not committed: what the engine samples has no place in it."""
    ids = TOKENIZER.encode("hello there", add_special_tokens=False)
    engine = Engine([[5]])
    heard = await told(engine, ids, max_tokens=len(ids) - beyond)
    assert "".join(text for text, _, _ in heard) == "hello there"
    assert [tokens for _, tokens, _ in heard] == [[i] for i in ids]
    assert heard[-1][2] == "length"
    assert (len(engine.asked[0]["prompt_token_ids"]), engine.asked[1].max_tokens) == (
        len(PROMPT["prompt_token_ids"]) + len(ids) - 1,
        1,
    )


@pytest.mark.parametrize(
    "options",
    [
        {"seed": 1},
        {"stop": ["x"]},
        {"logprobs": 0},
        {"n": 2},
        {"presence_penalty": 0.1},
        {"frequency_penalty": -0.1},
        {"min_tokens": 3},
        {"bad_words": ["x"]},
        {"extra_args": {"a": 1}},
        {"structured_outputs": StructuredOutputsParams(regex="a")},
        {"output_kind": RequestOutputKind.FINAL_ONLY},
    ],
)
def test_what_looks_back_on_the_answer_is_not_resumed(options: dict[str, Any]) -> None:
    assert can_be_resumed(CONFIG, [3], PROMPT, params())
    assert not can_be_resumed(CONFIG, [3], PROMPT, params(**options))


def test_what_does_not_is_resumed() -> None:
    options = {
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 5,
        "repetition_penalty": 1.1,
        "logit_bias": {3: 1.0},
    }
    assert can_be_resumed(CONFIG, [], PROMPT, params(**options, allowed_token_ids=[3, 4]))
    assert can_be_resumed(CONFIG, [], PROMPT, params(temperature=0, seed=1)), "it changes nothing there"


def test_another_models_tokens_are_not_gone_on_from() -> None:
    assert can_be_resumed(CONFIG, [len(TOKENIZER) - 1], PROMPT, params())
    for token in (len(TOKENIZER), -1):
        assert not can_be_resumed(CONFIG, [3, token], PROMPT, params())


def test_a_servers_own_logits_processors_may_look_back() -> None:
    model = SimpleNamespace(**{**vars(CONFIG.model_config), "logits_processors": ["bench.scripted:Scripted"]})
    assert not can_be_resumed(SimpleNamespace(model_config=model), [3], PROMPT, params())
