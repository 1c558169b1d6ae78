"""An answer that goes on where an earlier attempt at it broke off.

The engine gets the prompt with the tokens that were sampled then behind it. What it says is given as of the
prompt alone, with those tokens said first, one at a time: vLLM's parsers, its counts and who else reads it
see one answer from its beginning. The text is made by vLLM's detokenizer, here and from the first token on.

Seen in vLLM 0.26.0 and 0.32.0: v1/engine/{async_llm,detokenizer,output_processor}.py, sampling_params.py.
"""

import copy
from collections.abc import AsyncGenerator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
from vllm.sampling_params import RequestOutputKind, SamplingParams
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

from app.vllm_plugin.prompt_ids import PromptIds

_DEPENDING = (
    *("stop", "bad_words", "structured_outputs", "extra_args", "presence_penalty", "frequency_penalty"),
    *("min_tokens", "thinking_token_budget", "repetition_detection"),
)
"""Options that look back on the tokens of the answer, which to the engine would be the prompt's."""
_PER_TOKEN = ("logprobs", "prompt_logprobs", "logprob_token_ids")
"""Options that ask for what was not kept of each token."""


def can_be_resumed(config: Any, said: Sequence[int], prompt: Any, params: Any) -> bool:
    """Whether an answer goes on after some of its tokens as it would have gone on by itself.

    config: the engine's VllmConfig. said: the tokens, maybe of another model. prompt, params: as chat serving
    hands them to the engine.
    """
    vocabulary = config.model_config.get_vocab_size()
    return (
        isinstance(params, SamplingParams)
        and params.output_kind is RequestOutputKind.DELTA
        and params.n == 1
        and (params.seed is None or params.temperature == 0)
        and not any(getattr(params, name, None) for name in _DEPENDING)
        and all(getattr(params, name, None) is None for name in _PER_TOKEN)
        and not config.model_config.logits_processors
        and all(0 <= token < vocabulary for token in said)
        and "prompt_token_ids" in prompt
    )


async def resumed(
    generate: Callable[..., AsyncGenerator[Any, None]],
    tokenizer: Any,
    said: Sequence[int],
    prompt: dict[str, Any],
    params: Any,
    *args: Any,
    **options: Any,
) -> AsyncGenerator[Any, None]:
    """As `generate(prompt, params, ...)`, an answer that begins with the tokens `said`."""
    left = params.max_tokens - len(said)
    rest = copy.copy(params)
    # What comes of an answer that had all its tokens is not looked at.
    rest.max_tokens, rest.detokenize = max(left, 1), False
    before = said if left > 0 else said[:-1]
    ids = np.concatenate((np.asarray(prompt["prompt_token_ids"], np.int32), np.asarray(before, np.int32)))
    longer = {**prompt, "prompt_token_ids": PromptIds(ids)}
    words = _Words(tokenizer, prompt["prompt_token_ids"], params)
    started = False
    async for output in generate(longer, rest, *args, **options):
        output.prompt_token_ids = prompt["prompt_token_ids"]
        if output.num_cached_tokens is not None:
            output.num_cached_tokens = min(output.num_cached_tokens, len(output.prompt_token_ids))
        (choice,) = output.outputs
        if not started:
            started = True
            for token in before:
                yield words.alone(output, token)
            if left <= 0:
                choice.token_ids, choice.stop_reason = [said[-1]], None
                choice.finish_reason = "length"
        choice.text = words.of(choice)
        yield output


class _Words:
    """The text of an answer's tokens, as they come."""

    def __init__(self, tokenizer: Any, prompt_ids: list[int], params: Any) -> None:
        request = SimpleNamespace(
            request_id="", prompt_token_ids=prompt_ids, prompt_embeds=None, sampling_params=params
        )
        self._detokenizer: Any = IncrementalDetokenizer.from_new_request(tokenizer, request)

    def of(self, choice: Any) -> str:
        self._detokenizer.update(list(choice.token_ids), choice.finish_reason == "stop")
        text: str = self._detokenizer.get_next_output_text(choice.finish_reason is not None, True)
        return text

    def alone(self, output: Any, token: int) -> Any:
        """An output of that token only, which is not the last."""
        step = copy.copy(output)
        choice = copy.copy(output.outputs[0])
        choice.token_ids, choice.finish_reason, choice.stop_reason = [token], None, None
        choice.text = self.of(choice)
        step.outputs, step.finished = [choice], False
        return step
