"""The plugin in a vLLM that it does not fit: its server starts, and the plugin says why it keeps nothing."""

import sys
from argparse import Namespace
from collections.abc import Callable

import pytest
import vllm
import vllm.entrypoints.serve.utils.api_utils as vllm_utils
from fastapi import FastAPI
from fastapi.testclient import TestClient
from vllm.plugins import load_endpoint_plugins

from app.prefix.wire import PROTOCOL, SECRET_HEADER

ROUTES = "app.vllm_plugin.routes"
TURN = {"protocol": PROTOCOL, "namespace": "n", "chat": {}, "messages": [{"role": "user", "content": "x"}]}


def another_version(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(vllm, "__version__", "0.99.0")


def a_version_that_begins_alike(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(vllm, "__version__", "0.3.2")


def a_function_moved(patch: pytest.MonkeyPatch) -> None:
    patch.delitem(sys.modules, ROUTES, raising=False)
    patch.delattr(vllm_utils, "with_cancellation")


def a_module_moved(patch: pytest.MonkeyPatch) -> None:
    patch.delitem(sys.modules, ROUTES, raising=False)
    patch.setitem(sys.modules, vllm_utils.__name__, None)


def no_chat_serving(_: pytest.MonkeyPatch) -> None:
    """The server's state is empty."""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (another_version, "untested_vllm_version"),
        (a_version_that_begins_alike, "untested_vllm_version"),
        (a_function_moved, "vllm_seam_missing"),
        (a_module_moved, "vllm_seam_missing"),
        (no_chat_serving, "vllm_seam_missing"),
    ],
)
async def test_where_vllm_does_not_fit_its_server_starts_and_info_says_why(
    change: Callable[[pytest.MonkeyPatch], None], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "marginalia")
    monkeypatch.setenv("MARGINALIA_SECRET", "s")
    change(monkeypatch)
    app = FastAPI()
    (plugin,) = load_endpoint_plugins(("generate",))
    plugin.attach_router(app)
    await plugin.init_state(None, app.state, Namespace())  # type: ignore[arg-type]
    client = TestClient(app, headers={SECRET_HEADER: "s"})

    info = client.get("/prefix/v1/info")
    assert (info.status_code, info.json()["protocol"], info.json()["refusal"]) == (200, PROTOCOL, reason)
    for refused in (
        client.get("/prefix/v1/stats"),
        client.post("/prefix/v1/chat", json=TURN),
        client.post("/prefix/v1/render", json=TURN),
        client.delete("/prefix/v1/00"),
    ):
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "not_continuable")
        assert reason in refused.json()["error"]["message"]
    assert client.get("/prefix/v1/info", headers={SECRET_HEADER: ""}).status_code == 401
