"""A seeded part of `python -m tests.parity --live`: random conversations through a running vLLM.

Qwen3, of all families: its template rewrites history (old reasoning goes, tool messages look at their
neighbours), and the other tests here run on SmolLM2, whose template only appends.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from app.prefix.wire import Policy
from tests.parity.conversations import Conversation, Message, Step, conversations
from tests.parity.families import FAMILIES
from tests.parity.live import Live, play
from tests.parity.play import Difference, Tally

FAMILY = FAMILIES["qwen3"]
EXAMPLES = 12

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def worker() -> Iterator[Live]:
    live = Live(FAMILY)
    yield live
    live.close()


def test_every_prompt_is_that_of_vllms_tokenize(worker: Live) -> None:
    assert worker.info()["refusal"] is None
    tally = Tally()

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        # A running model does not say the same twice: nothing to shrink.
        phases=[Phase.generate],
    )
    @given(conversations(FAMILY))
    def compared(conversation: Conversation) -> None:
        play(worker, tally, conversation)

    compared()
    # Else nothing was shown.
    assert tally.counts["turns"] > 4 * EXAMPLES
    assert tally.counts["hit"] and tally.counts["rewind"] and tally.counts["reseed"]
    assert tally.reused > tally.tokens / 20
    assert tally.sampled and tally.counts["as sampled"]


@pytest.mark.parametrize("policy", ["sampled", "canonical"])
def test_another_prompt_is_noticed(policy: Policy, worker: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    stock_ids = worker.stock_ids

    def of_less(messages: list[Message], options: dict[str, Any]) -> list[int] | None:
        return stock_ids(messages[1:] or messages, options)

    monkeypatch.setattr(worker, "stock_ids", of_less)
    question = {"role": "user", "content": "Where does it begin?"}
    steps = [Step("continue", 0, (question,), None, 3600, True) for _ in range(2)]
    with pytest.raises(Difference):
        play(worker, Tally(), Conversation(1 << 28, tuple(steps), policy))
