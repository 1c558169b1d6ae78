"""The seam to vLLM's chat serving is tried out when the plugin starts, on the real serving and renderer."""

import copy
from argparse import Namespace
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from app.vllm_plugin.plugin import MarginaliaPlugin
from tests.parity.offline import Offline

REFUSING = "{{ raise_exception('not this conversation') }}"


async def refusal_of(serving: Any, monkeypatch: pytest.MonkeyPatch) -> str | None:
    """What the plugin's /info says when it was started on `serving`."""
    monkeypatch.setenv("MARGINALIA_SECRET", "s")
    monkeypatch.setenv("DETOKENIZE_TAIL", "0")
    state = SimpleNamespace(openai_serving_chat=serving)
    await MarginaliaPlugin().init_state(None, state, Namespace())
    refusal: str | None = state.marginalia.info().refusal
    return refusal


def renders(serving: Any, render_chat_async: Callable[..., Any]) -> Any:
    """`serving` in a version of vLLM whose renderer has another `render_chat_async`."""
    renderer = copy.copy(serving.online_renderer.renderer)
    renderer.__class__ = type("Otherwise", (type(renderer),), {"render_chat_async": render_chat_async})
    serving, online = copy.copy(serving), copy.copy(serving.online_renderer)
    serving.online_renderer, online.renderer = online, renderer
    return serving


async def test_a_prompt_that_is_not_taken_from_the_plugin_is_noticed(
    load: Callable[[str], Offline], monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = load("smollm2")._serving
    stock = serving.online_renderer.renderer

    async def another_way(_: Any, *args: Any, **kwargs: Any) -> Any:
        return await stock.render_chat_async(*args, **kwargs)

    async def another_signature(self: Any, conversations: Any, chat_params: Any) -> Any:
        raise NotImplementedError

    assert await refusal_of(serving, monkeypatch) is None
    assert await refusal_of(renders(serving, another_way), monkeypatch) == "vllm_seam_missing"
    assert await refusal_of(renders(serving, another_signature), monkeypatch) == "vllm_seam_missing"


async def test_a_template_that_refuses_the_trial_says_nothing_of_the_seam(
    load: Callable[[str], Offline], monkeypatch: pytest.MonkeyPatch
) -> None:
    serving = copy.copy(load("smollm2")._serving)
    serving.online_renderer = copy.copy(serving.online_renderer)
    serving.online_renderer.chat_template = REFUSING
    assert await refusal_of(serving, monkeypatch) is None
