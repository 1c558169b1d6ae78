"""Settings from the environment: defaults, and that a bad value stops the start with its name."""

import pytest

from app import settings
from app.errors import SetupError


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in settings.Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


def test_token_ids_are_kept_and_sampled_ones_used_by_default() -> None:
    loaded = settings.load()
    assert (loaded.keep_token_ids, loaded.prefix_policy) == (True, "sampled")


@pytest.mark.parametrize(("value", "kept"), [("0", False), ("false", False), ("1", True), ("true", True)])
def test_keeping_token_ids_is_switched_off_and_on(
    monkeypatch: pytest.MonkeyPatch, value: str, kept: bool
) -> None:
    monkeypatch.setenv("KEEP_TOKEN_IDS", value)
    assert settings.load().keep_token_ids is kept


def test_who_comes_to_a_busy_conversation_waits_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.load().conversation_busy == "wait"
    monkeypatch.setenv("CONVERSATION_BUSY", "refuse")
    assert settings.load().conversation_busy == "refuse"


def test_the_policy_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFIX_POLICY", "canonical")
    assert settings.load().prefix_policy == "canonical"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("KEEP_TOKEN_IDS", "perhaps"),
        ("KEEP_TOKEN_IDS", ""),
        ("PREFIX_POLICY", "guess"),
        ("PREFIX_POLICY", ""),
        ("CONVERSATION_BUSY", "queue"),
    ],
)
def test_a_value_that_is_none_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SetupError) as error:
        settings.load()
    assert name in error.value.message
    assert name in error.value.hint
