"""What a chat template adds to ask for an answer, and bytes that identify it."""

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from app.vllm_plugin.seam import Prompt

RenderText = Callable[..., Awaitable[tuple[Any, Prompt]]]
"""(messages, chat_params) -> (conversation, prompt with its text)."""

_FINGERPRINTS = 1024
"""How many generation prompts are remembered: one per set of tools and template arguments."""


class GenerationPrompts:
    """What the template adds to ask for an answer: only names paths. Rendered once per fingerprint."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    async def of(self, fingerprint: str, params: Any, render: RenderText) -> str:
        known = self._known.get(fingerprint)
        if known is None:
            known = await _generation_prompt(params, render)
            if len(self._known) >= _FINGERPRINTS:
                self._known.clear()
            self._known[fingerprint] = known
        return known


def describe(value: Any) -> bytes:
    """Bytes that are the same for equal values, for a fingerprint."""
    return msgspec.json.encode(value, order="sorted", enc_hook=repr)


async def _generation_prompt(params: Any, render: RenderText) -> str:
    """The text by which a one-message conversation grows with `add_generation_prompt`; "" if unknown."""

    async def text(wanted: bool) -> str:
        kwargs = {**params.chat_template_kwargs, "add_generation_prompt": wanted}
        changed = dataclasses.replace(params, chat_template_kwargs=kwargs)
        _, prompt = await render([{"role": "user", "content": "x"}], changed)
        return str(prompt["prompt"])

    try:
        without, with_prompt = await text(False), await text(True)
    except Exception:  # A template may refuse such a conversation; this only names paths.
        return ""
    return with_prompt.removeprefix(without) if with_prompt.startswith(without) else ""
