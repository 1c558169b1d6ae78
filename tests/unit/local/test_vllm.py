"""How the local vLLM is started: a fake server in its place tells what it was given."""

import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import SetupError
from app.local.vllm import LocalVllm

FAKE = """
import http.server, json, os, sys, time
print(json.dumps({"argv": sys.argv[1:], "env": dict(os.environ)}), flush=True)
if "--die" in sys.argv:
    sys.exit("RuntimeError: no engine")
if "--sleep" in sys.argv:
    time.sleep(600)
class Health(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *args): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Health).serve_forever()
"""


class FakeVllm(LocalVllm):
    """The same, with another program behind it."""

    def _command(self, gpu: bool) -> list[str]:
        return [sys.executable, "-c", FAKE, *super()._command(gpu)[3:]]

    def told(self) -> tuple[list[str], dict[str, str]]:
        told = json.loads(self.output().splitlines()[0])
        return told["argv"], told["env"]


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type]:
    servers: list[FakeVllm] = []
    for name in ("VLLM_PLUGINS", "MARGINALIA_SECRET", "HF_HUB_OFFLINE", "VLLM_CPU_KVCACHE_SPACE"):
        monkeypatch.delenv(name, raising=False)

    class Starter(FakeVllm):
        def __init__(self, model: str, *args: str, secret: str | None = "s3cret") -> None:
            super().__init__(model, "served", log_dir=tmp_path, secret=secret, extra_args=args)
            servers.append(self)
            self.start()

    yield Starter
    for server in servers:
        server.stop()


def test_it_gets_the_model_the_plugin_and_the_secret(started: type[FakeVllm], tmp_path: Path) -> None:
    server = started(str(tmp_path), "--max-model-len", "4096")  # type: ignore[call-arg]
    assert server.wait_ready() < 60
    argv, env = server.told()
    assert argv[:8] == [
        "--model",
        str(tmp_path),
        "--served-model-name",
        "served",
        "--host",
        "127.0.0.1",
        "--port",
        str(server.port),
    ]
    assert argv[-2:] == ["--max-model-len", "4096"]
    assert "s3cret" not in argv
    assert (env["VLLM_PLUGINS"], env["MARGINALIA_SECRET"]) == ("marginalia", "s3cret")
    assert (env["VLLM_NO_USAGE_STATS"], env["HF_HUB_OFFLINE"]) == ("1", "1")


def test_a_hub_name_may_use_the_network(started: type[FakeVllm]) -> None:
    server = started("owner/model")  # type: ignore[call-arg]
    server.wait_ready()
    assert "HF_HUB_OFFLINE" not in server.told()[1]


def test_without_a_secret_there_is_no_plugin(
    started: type[FakeVllm], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", "other,marginalia")
    monkeypatch.setenv("MARGINALIA_SECRET", "the service's")
    server = started("m", secret=None)  # type: ignore[call-arg]
    server.wait_ready()
    env = server.told()[1]
    assert env["VLLM_PLUGINS"] == "other"
    assert "MARGINALIA_SECRET" not in env


def test_a_death_is_noticed_at_once(started: type[FakeVllm]) -> None:
    server = started("m", "--die")  # type: ignore[call-arg]
    with pytest.raises(SetupError, match="RuntimeError: no engine"):
        server.wait_ready()


def test_a_slow_start_ends_with_the_patience(started: type[FakeVllm]) -> None:
    server = started("m", "--sleep")  # type: ignore[call-arg]
    with pytest.raises(SetupError, match="was not ready after"):
        server.wait_ready(timeout_s=0.0)


def test_waiting_can_be_given_up(started: type[FakeVllm]) -> None:
    server = started("m", "--sleep")  # type: ignore[call-arg]
    give_up = threading.Event()
    give_up.set()
    server.wait_ready(give_up=give_up)
    assert server.alive() and not server.is_healthy()


def test_killed_and_started_again_it_has_the_same_url(started: type[FakeVllm]) -> None:
    server = started("m")  # type: ignore[call-arg]
    server.wait_ready()
    url = server.url
    server.kill()
    assert not server.alive()
    assert not server.is_healthy()
    server.start()
    server.wait_ready()
    assert server.url == url


def test_stop_leaves_nothing(started: type[FakeVllm]) -> None:
    server = started("m")  # type: ignore[call-arg]
    server.wait_ready()
    server.stop()
    assert not server.alive()
    assert not server.is_healthy()
