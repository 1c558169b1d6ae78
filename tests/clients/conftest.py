"""Real clients against the service on real vLLM; after each test every answer that it got is checked."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from openai import AsyncOpenAI, OpenAI

from app.main import create_app
from app.store.database import Database
from tests.clients.node import install_packages
from tests.contract.recording import Recording
from tests.e2e.stack import SECRET, sdk, serving


@pytest.fixture(scope="session")
def recorded_service(vllm_url: str, database: Database) -> Iterator[tuple[str, Recording]]:
    """A service of its own for the clients, which keeps what it answers."""
    url = database.engine.url.render_as_string(hide_password=False)
    app = create_app(database_url=url, worker_urls=[vllm_url], secret=SECRET, prefix_ttl_seconds=3600)
    recording = Recording(app)
    with serving(recording) as service:
        yield service, recording


@pytest.fixture(autouse=True)
def recording(recorded_service: tuple[str, Recording]) -> Iterator[Recording]:
    """What the service answered in this test."""
    recording = recorded_service[1]
    recording.exchanges.clear()
    yield recording
    recording.check()


@pytest.fixture(scope="session")
def base_url(recorded_service: tuple[str, Recording]) -> str:
    """What a user switches."""
    return f"{recorded_service[0]}/v1"


@pytest.fixture
def client(recorded_service: tuple[str, Recording]) -> Iterator[OpenAI]:
    with sdk(recorded_service[0]) as client:
        yield client


@pytest_asyncio.fixture
async def async_client(base_url: str) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=base_url, api_key="unused", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def js_packages(tmp_path_factory: pytest.TempPathFactory) -> object:
    return install_packages()
