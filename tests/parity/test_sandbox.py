"""The families' templates in the quicker sandbox: the same prompts, the same refusals."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from app.certify.conversations import Conversations, alternating
from app.vllm_plugin import sandbox
from tests.parity.families import FAMILIES
from tests.parity.offline import MODEL, Offline, Prompt, Refused


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if not family.harmony])
def test_every_prompt_is_what_it_was(
    load: Callable[[str], Offline], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = load(name)
    made = Conversations(0, worker.family.special, 1.0 if worker.family.alternating else 0.5)

    def prompt(chat: dict[str, Any], messages: list[dict[str, Any]]) -> Prompt | Refused:
        return worker.runner.run(worker.stock({"model": MODEL, **chat}, copy.deepcopy(messages), "n"))

    conversations: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    for _ in range(8):
        messages: list[dict[str, Any]] = []
        for step in made.steps():
            messages += alternating(messages, step.added) if step.orderly else step.added
            conversations.append((step.options or {}, [*messages]))
    with monkeypatch.context() as patch:
        patch.setattr(ImmutableSandboxedEnvironment, "getattr", sandbox.stock_getattr)
        patch.setattr(ImmutableSandboxedEnvironment, "is_safe_attribute", sandbox.stock_is_safe_attribute)
        expected = [prompt(*conversation) for conversation in conversations]
    monkeypatch.setattr(ImmutableSandboxedEnvironment, "getattr", sandbox.getattr_)
    monkeypatch.setattr(ImmutableSandboxedEnvironment, "is_safe_attribute", sandbox.is_safe_attribute)
    assert [prompt(*conversation) for conversation in conversations] == expected
    assert sum(isinstance(one, Prompt) for one in expected) > 20
