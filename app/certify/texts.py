"""Rendered prompts as text, by vLLM's own chat serving, and how two of them compare."""

from collections.abc import Sequence
from typing import Any

from app.certify.offline import MODEL, Offline, Refused
from app.certify.talk import Message

SALT = "certify"
_HARMONY_ASKS = "<|start|>assistant"
"""Ends every prompt of gpt-oss, which vLLM makes as ids; no option leaves it out."""
_BEFORE, _AFTER = 24, 56
"""Characters around a difference that an example shows."""


class TemplateRefused(Exception):
    """vLLM or the template does not take such a conversation; the message is theirs."""


class Texts:
    """Renders conversations on `worker` with these template arguments."""

    def __init__(self, worker: Offline, arguments: dict[str, Any]) -> None:
        self._worker = worker
        self.arguments = arguments

    def under(self, arguments: dict[str, Any]) -> "Texts":
        """The same with other template arguments."""
        return Texts(self._worker, arguments)

    def of(
        self, messages: list[Message], *, ask: bool = False, tools: list[dict[str, Any]] | None = None
    ) -> str:
        """The prompt of `messages`, with `ask` up to where the answer begins. Raises TemplateRefused."""
        chat: dict[str, Any] = {"model": MODEL, "max_tokens": 1, "add_generation_prompt": ask}
        if self.arguments:
            chat["chat_template_kwargs"] = self.arguments
        if tools:
            chat |= {"tools": tools, "tool_choice": "none"}
        prompt = self._worker.runner.run(self._worker.stock(chat, messages, SALT))
        if isinstance(prompt, Refused):
            raise TemplateRefused(prompt.message)
        if prompt.text:
            return prompt.text
        decoded = self._worker.decode(prompt.ids)
        return decoded if ask else decoded.removesuffix(_HARMONY_ASKS)

    def takes(self, messages: list[Message]) -> bool:
        return self.refusal(messages) is None

    def refusal(self, messages: list[Message]) -> str | None:
        """Why such a conversation is not taken; None if it is."""
        try:
            self.of(messages)
        except TemplateRefused as refused:
            return str(refused)
        return None


def kept_count(before: Sequence[object], after: Sequence[object]) -> int:
    """How many characters or tokens both begin with."""
    different = (n for n, (a, b) in enumerate(zip(before, after, strict=False)) if a != b)
    return next(different, min(len(before), len(after)))


def excerpts(before: str, after: str) -> tuple[str, str]:
    """Both texts around the first difference."""
    at = kept_count(before, after)
    return _around(before, at), _around(after, at)


def _around(text: str, at: int) -> str:
    start, end = max(0, at - _BEFORE), at + _AFTER
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
