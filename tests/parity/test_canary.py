"""The canary on vLLM's own serving: it agrees with what is right, and stops what is wrong."""

import logging
from collections.abc import Callable, Iterator

import pytest

from app.vllm_plugin.canary import Canary, logger
from tests.parity.conversations import Conversation
from tests.parity.offline import Offline
from tests.parity.play import Difference, Tally, play
from tests.parity.test_families import append_only, says

WORDS = (
    ("user", "hello"),
    ("assistant", "hello world"),
    ("user", "The 12"),
    ("assistant", "x = 1"),
    ("user", "?"),
)


@pytest.fixture
def worker(load: Callable[[str], Offline]) -> Iterator[Offline]:
    worker = load("hostile_qwen3")
    before, worker.service.canary = worker.service.canary, Canary(1.0)
    yield worker
    worker.service.canary = before


def settled(worker: Offline) -> dict[str, float]:
    worker.runner.run(worker.service.canary.settled())
    return worker.service.canary.stats()


def test_it_agrees_with_turns_that_are_right_sampled_words_included(worker: Offline) -> None:
    tally = Tally()
    play(worker, tally, Conversation(1 << 28, tuple(says(text, role, options={}) for role, text in WORDS)))
    stats = settled(worker)
    assert stats["checked"] > 0
    assert (stats["differences"], stats["failed"], stats["quarantined"]) == (0, 0, 0)


def test_a_difference_puts_the_fingerprint_in_quarantine(
    worker: Offline, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("app.vllm_plugin.turn.continue_prompt", append_only)
    caplog.set_level(logging.ERROR, logger=logger.name)
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    conversation = Conversation(1 << 28, tuple(map(says, "abcd")))
    with pytest.raises(Difference):
        play(worker, Tally(), conversation)
    stats = settled(worker)
    assert (stats["differences"], stats["quarantined"]) == (1, 1)
    assert "quarantine" in caplog.text
    # From now on nothing of it is continued, right or wrong: it is vLLM's own.
    monkeypatch.undo()
    with pytest.raises(Difference, match="miss: the plugin has 'quarantined'"):
        play(worker, Tally(), conversation)


def test_nothing_is_checked_without_a_share(worker: Offline) -> None:
    worker.service.canary = Canary(0.0)
    play(worker, Tally(), Conversation(1 << 28, tuple(map(says, "ab"))))
    assert settled(worker)["checked"] == 0
