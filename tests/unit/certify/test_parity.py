"""Random conversations: the same for the same seed, and a difference does not go unseen."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from app.certify.certificate import Parity
from app.certify.conversations import Conversations
from app.certify.offline import Offline, Prompt, Refused
from app.certify.parity import compare
from app.certify.scenarios import reuses
from app.prefix.wire import PrefixChatRequest, Receipt
from tests.unit.certify.templates import APPEND_ONLY, ONE_THING

SPECIAL = ["<|im_start|>", "<|im_end|>"]


@pytest.fixture
def appending(worker: Offline) -> Iterator[Offline]:
    worker.use_template(APPEND_ONLY)
    yield worker


def compared(worker: Any, seed: int = 0, turns: int = 40) -> Parity:
    return compare(worker, turns, seed, SPECIAL, orderly=0.1)


class Wrong:
    """A worker whose plugin gives the engine one wrong token, in prompts that it continued."""

    def __init__(self, worker: Offline) -> None:
        self._worker = worker

    def __getattr__(self, name: str) -> Any:
        return getattr(self._worker, name)

    async def turn(self, request: PrefixChatRequest) -> tuple[Prompt, Receipt] | Refused:
        outcome = await self._worker.turn(request)
        if isinstance(outcome, Refused) or outcome[1].path == "full":
            return outcome
        prompt, receipt = outcome
        return replace(prompt, ids=(*prompt.ids[:-1], prompt.ids[-1] + 1)), receipt


def test_the_plugin_has_the_ids_of_the_full_tokenization(appending: Offline) -> None:
    parity = compared(appending)
    assert (parity.different, parity.differences) == (0, [])
    assert parity.turns >= 40
    assert sum(parity.paths.values()) == parity.turns
    assert {"full", "hit"} <= set(parity.paths)
    assert parity.tokens / 5 < parity.known < parity.tokens


def test_a_wrong_token_is_seen_and_shown(appending: Offline) -> None:
    parity = compared(Wrong(appending))
    assert parity.different == sum(count for path, count in parity.paths.items() if path != "full") > 5
    assert len(parity.differences) == 5
    assert "conversation 1, step " in parity.differences[0]
    assert "from the plugin" in parity.differences[0]


def test_a_refusal_on_one_side_only_is_a_difference(appending: Offline) -> None:
    class Lame(Wrong):
        async def turn(self, request: PrefixChatRequest) -> Refused:
            return Refused("PrefixMiss", "no")

    parity = compared(Lame(appending))
    assert parity.different == parity.turns > 0
    assert "the plugin answers 'no', vLLM with a prompt" in parity.differences[0]


def test_the_seed_decides(appending: Offline) -> None:
    assert compared(appending, seed=3) == compared(appending, seed=3)
    assert compared(appending, seed=3) != compared(appending, seed=4)


def test_a_template_that_refuses_nearly_everything_comes_to_an_end(worker: Offline) -> None:
    refusing = APPEND_ONLY.replace("{{ m.content }}", "{{ raise_exception('no') }}")
    worker.use_template(refusing)
    parity = compared(worker, turns=2)
    assert (parity.turns, parity.different) == (0, 0)
    assert parity.refused >= 40


def test_conversations_hold_what_breaks_careless_tokenization() -> None:
    supply = Conversations(0, SPECIAL, orderly=0.1)
    steps = [step for _ in range(60) for step in supply.steps()]
    said = [message for step in steps for message in step.added]
    texts = [m["content"] for m in said if isinstance(m["content"], str)]
    assert {m["role"] for m in said} == {"user", "assistant", "system", "developer", "tool"}
    assert any(m.get("reasoning") for m in said) and any(len(m.get("tool_calls", ())) > 1 for m in said)
    for piece in ("<|im_end|>", "|im_end|>", "</think>", "👩\u200d👩\u200d👧", "\n\n"):
        assert any(piece in text for text in texts), piece
    assert "" in texts and any(isinstance(m["content"], list) for m in said)
    assert any(step.edit for step in steps) and any(step.whole for step in steps) and any(s.at for s in steps)
    assert any(s.options and s.options.get("tools") for s in steps)


def test_what_a_turn_reuses_is_what_did_not_change(worker: Offline) -> None:
    worker.use_template(APPEND_ONLY)
    appended = {reuse.scenario: reuse for reuse in reuses(worker)}
    worker.use_template(ONE_THING["tools_before_history"])
    in_front = {reuse.scenario: reuse for reuse in reuses(worker)}
    assert {reuse.path for reuse in appended.values()} == {"hit"}
    changed = in_front["changed tools"]
    assert changed.path == "rewind"
    assert changed.standing < changed.tokens / 3 < changed.known < changed.tokens
    assert in_front["tool loop"].standing > in_front["tool loop"].tokens / 2
