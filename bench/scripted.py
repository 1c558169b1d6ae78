"""A sampler that says what the scenario needs, on a model whose weights are random.

`--logits-processors bench.scripted:Scripted`. A random model neither calls tools nor writes text: its tokens
cannot even be read back as the same tokens, so that no two modes would continue with the same prompt. The
forward pass stays as it is; only which token wins is written down here.

A prompt whose end has CALL and a number gets reasoning and a tool call, one that has ANSWER reasoning and an
answer, any other one common words until the limit.
"""

import re
from typing import Any

import torch
from transformers import AutoTokenizer
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from bench.texts import ANSWER, CALL, COMMON, TOOL

_TAIL_TOKENS = 64


class Scripted(AdapterLogitsProcessor):  # type: ignore[misc]
    """vLLM's interface for custom logits processors."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        super().__init__(vllm_config, device, is_pin_memory)
        self._tokenizer = AutoTokenizer.from_pretrained(vllm_config.model_config.tokenizer)
        self._end = self._tokenizer.convert_tokens_to_ids("<|im_end|>")
        one_token = [ids for word in COMMON if len(ids := self._encode(" " + word)) == 1]
        self._words = [ids[0] for ids in one_token]

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: Any) -> Any:
        script: list[int] = []

        def choose(prompt_ids: list[int], output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
            if not script:
                script.extend(self._script_for(prompt_ids))
            at = len(output_ids)
            token = script[at] if at < len(script) else self._words[at % len(self._words)]
            chosen = torch.full_like(logits, float("-inf"))
            chosen[token] = 0.0
            return chosen

        return choose

    def _script_for(self, prompt_ids: list[int]) -> list[int]:
        tail = self._tokenizer.decode(list(prompt_ids[-_TAIL_TOKENS:]))
        if found := re.findall(re.escape(CALL) + r" (\d+)\]\]", tail):
            call = f'{{"name": "{TOOL}", "arguments": {{"step": {found[-1]}}}}}'
            thought = (
                f"<think>\nStep {found[-1]} has to be looked up before anything can be said.\n</think>\n\n"
            )
            return [*self._encode(f"{thought}<tool_call>\n{call}\n</tool_call>"), self._end]
        if ANSWER in tail:
            return [*self._encode("<think>\nAll of it is known now.\n</think>\n\nIt is done."), self._end]
        return [self._encode("The")[0]]

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False)
        return ids
