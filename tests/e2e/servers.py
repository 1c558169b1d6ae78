"""Session fixtures of all tests on real vLLM: one model, one vLLM server, one service."""

import json
import os
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from openai import OpenAI

from app.conversation.records import DEFAULT_TENANT, Checkpoint, ResponseId
from app.local.model import DEFAULT_MODEL, DEFAULT_VLLM_ARGS, default_model
from app.local.vllm import LocalVllm
from app.main import create_app
from app.store.database import Database
from app.store.responses import PostgresResponseStore
from bench.engines import ON_A_CPU
from bench.scenarios import tools
from bench.stack import MODEL, ROOT
from tests.e2e.stack import SECRET, Recorder, running, sdk, serving, unique


@pytest.fixture(scope="session")
def default_model_dir() -> Path:
    """The converted default model, kept between runs."""
    cache = os.environ.get("MARGINALIA_TEST_CACHE") or Path.home() / ".cache/marginalia-test"
    return default_model(Path(cache), lambda _: None)


@pytest.fixture(scope="session")
def start_vllm(
    default_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., LocalVllm]]:
    """Starts vLLM servers with the default model, by name, and stops them when the session ends."""
    log_dir = tmp_path_factory.mktemp("vllm")
    with ExitStack() as stack:

        def start(name: str, extra_args: Sequence[str], secret: str | None = SECRET) -> LocalVllm:
            model = (str(default_model_dir), DEFAULT_MODEL)
            server = LocalVllm(*model, log_dir=log_dir, secret=secret, extra_args=extra_args, name=name)
            return stack.enter_context(running(server, timeout_s=280))

        yield start


@pytest.fixture(scope="session")
def vllm(start_vllm: Callable[..., LocalVllm]) -> LocalVllm:
    """vLLM with the plugin, serving the default model."""
    return start_vllm("vllm", DEFAULT_VLLM_ARGS)


@pytest.fixture(scope="session")
def vllm_url(request: pytest.FixtureRequest) -> str:
    """Of `vllm`, or of one like it that runs already: TEST_VLLM_URL saves developers its start."""
    url: str = os.environ.get("TEST_VLLM_URL") or request.getfixturevalue("vllm").url
    return url


@pytest.fixture(scope="session")
def scripted_vllm_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM with the plugin and a tiny model that reasons and calls tools as its prompt says
    (bench.scripted); TEST_SCRIPTED_VLLM_URL as above. The model's name is `bench`."""
    if url := os.environ.get("TEST_SCRIPTED_VLLM_URL"):
        yield url
        return
    engine = next(engine for engine in ON_A_CPU if tools in engine.scenarios)
    with patch.dict(os.environ, {"PYTHONPATH": str(ROOT), "VLLM_CPU_KVCACHE_SPACE": "1"}):
        server = LocalVllm(
            str(engine.model()),
            MODEL,
            log_dir=tmp_path_factory.mktemp("scripted"),
            secret=SECRET,
            extra_args=engine.arguments,
        )
        with running(server, timeout_s=280):
            yield server.url


@pytest.fixture(scope="session")
def on_one_line(default_model_dir: Path) -> dict[str, Any]:
    """Extra fields, for answers without line breaks.

    The model's vocabulary has a token for a blank line, which its tokenizer never gives in a text: after one,
    the next prompt rightly has other ids than a full render's (docs/adr/0007-sampled-ids.md).
    """
    vocabulary = json.loads((default_model_dir / "tokenizer.json").read_text())["model"]["vocab"]
    return {"logit_bias": {str(n): -100 for token, n in vocabulary.items() if "Ċ" in token}}


@pytest.fixture(scope="session")
def recorder(vllm_url: str) -> Recorder:
    """What the service sent to vLLM."""
    return Recorder(vllm_url)


@pytest.fixture(scope="session")
def service_url(recorder: Recorder, database: Database) -> Iterator[str]:
    """The service in front of vLLM, which it reaches through the recorder."""
    url = database.engine.url.render_as_string(hide_password=False)
    with serving(recorder.app()) as worker:
        app = create_app(database_url=url, worker_urls=[worker], secret=SECRET, prefix_ttl_seconds=3600)
        with serving(app) as service:
            yield service


@pytest.fixture(scope="session")
def client(service_url: str) -> Iterator[OpenAI]:
    with sdk(service_url) as client:
        yield client


@pytest.fixture
def client_for(database: Database) -> Iterator[Callable[..., OpenAI]]:
    """A service of its own in front of a vLLM server, with create_app's settings; it ends with the test."""
    url = database.engine.url.render_as_string(hide_password=False)
    with ExitStack() as stack:

        def start(vllm_url: str, **settings: Any) -> OpenAI:
            settings = {"secret": SECRET, "prefix_ttl_seconds": 3600, **settings}
            app = create_app(database_url=url, worker_urls=[vllm_url], **settings)
            service = stack.enter_context(serving(app))
            return stack.enter_context(sdk(service))

        yield start


@pytest.fixture
def checkpoints(database: Database) -> Callable[[str], Awaitable[Checkpoint | None]]:
    """Reads a response's checkpoint from Postgres."""

    async def read(response_id: str) -> Checkpoint | None:
        parent = await PostgresResponseStore(database).parent(DEFAULT_TENANT, ResponseId(response_id))
        assert parent is not None
        return parent.checkpoint

    return read


@pytest.fixture
def opening() -> str:
    """A first message that no other test has sent."""
    return f"My name is Ada{unique()}."
