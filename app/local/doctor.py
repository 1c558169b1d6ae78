"""`marginalia doctor`: checks what the service needs, and says what to do about what is wrong."""

from collections.abc import Iterator
from dataclasses import dataclass

import httpx
from sqlalchemy import text

from app.errors import SetupError
from app.local import state
from app.local.database import database_url, on_database
from app.prefix.wire import PROTOCOL, SECRET_HEADER
from app.settings import Settings
from app.store import migrate
from app.store.database import Database

TIMEOUT_S = 5.0
OLDEST_POSTGRES = 140000


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the report; `todo` is set where something is wrong."""

    subject: str
    found: str
    todo: str | None = None

    def __str__(self) -> str:
        mark = "FAIL" if self.todo else "ok  "
        return f"{mark}  {self.subject}: {self.found}" + (f"\n      -> {self.todo}" if self.todo else "")


def doctor(settings: Settings) -> int:
    """Print one line per check; 0 where all is well, else 1."""
    failed = 0
    for check in _checks(settings):
        print(check, flush=True)
        failed += check.todo is not None
    print("All is well." if not failed else f"{failed} to mend.")
    return 1 if failed else 0


def _checks(settings: Settings) -> Iterator[Check]:
    try:
        with database_url(settings) as url:
            yield from check_database(url)
    except SetupError as exc:
        yield Check("Postgres", exc.message, exc.hint)
    yield from _check_workers(settings)


def _check_workers(settings: Settings) -> Iterator[Check]:
    if settings.worker_urls:
        secret = settings.marginalia_secret.get_secret_value() if settings.marginalia_secret else None
        for url in settings.worker_urls:
            yield from check_worker(str(url).rstrip("/"), secret)
        return
    running = state.read(settings.data_dir)
    if running is None:
        todo = "Start it: make run. For servers elsewhere set WORKER_URLS and MARGINALIA_SECRET."
        yield Check("vLLM", f"no local one runs on {settings.data_dir}", todo)
        return
    yield _check_service(running.service_url)
    yield from check_worker(running.worker_url, running.secret)


def check_database(url: str) -> Iterator[Check]:
    """Whether Postgres answers, is new enough, and has the tables of this version. Raises SetupError."""
    number = on_database(url, _server_version)
    version = f"version {number // 10000}.{number % 10000}"
    old = f"Marginalia needs Postgres {OLDEST_POSTGRES // 10000} or newer."
    yield Check("Postgres", version, old if number < OLDEST_POSTGRES else None)
    current, head = on_database(url, migrate.current), migrate.head()
    todo = None if current == head else "Run: .venv/bin/marginalia db upgrade"
    yield Check("Migrations", f"at {current or 'nothing'}, newest {head}", todo)


async def _server_version(database: Database) -> int:
    async with database.reading() as connection:
        return int((await connection.execute(text("SHOW server_version_num"))).scalar_one())


def _check_service(url: str) -> Check:
    answer = _get(f"{url}/ready")
    if isinstance(answer, str):
        return Check("Service", answer, "See what `make run` prints: it may be starting still.")
    todo = None if answer.is_success else "The checks below and above say what it waits for."
    return Check("Service", f"{url} answers {answer.status_code}", todo)


def check_worker(url: str, secret: str | None) -> Iterator[Check]:
    """Whether a vLLM answers, with which model, and whether its plugin is one that we can talk to."""
    health = _get(f"{url}/health")
    if isinstance(health, str):
        yield Check("vLLM", health, "Start that server, or correct WORKER_URLS.")
        return
    todo = None if health.is_success else "The server runs but its engine does not: see its log, restart it."
    yield Check("vLLM", f"{url} answers {health.status_code}", todo)
    yield _check_models(url)
    yield check_plugin(url, secret)


def _check_models(url: str) -> Check:
    answer = _get(f"{url}/v1/models")
    try:
        names = [] if isinstance(answer, str) else [model["id"] for model in answer.json()["data"]]
    except (ValueError, LookupError, TypeError):
        names = []
    todo = None if names else "Is this a vLLM server, and does it want an API key of its own?"
    return Check("Model", ", ".join(names) or "none", todo)


def check_plugin(url: str, secret: str | None) -> Check:
    """Whether the plugin is there, takes our secret, and speaks our protocol."""
    answer = _get(f"{url}/prefix/v1/info", {SECRET_HEADER: secret or ""})
    if isinstance(answer, str):
        return Check("Plugin", answer, "See the log of that vLLM server.")
    if answer.status_code == httpx.codes.NOT_FOUND:
        found = "not loaded in this vLLM: turns work but cost the whole history"
        return Check("Plugin", found, "Install marginalia beside that vLLM and set VLLM_PLUGINS=marginalia.")
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        found = "refuses our secret" if secret else "wants a secret and MARGINALIA_SECRET is not set"
        return Check("Plugin", found, "Set the same MARGINALIA_SECRET for this service and for vLLM.")
    try:
        info = answer.json()
        found = f"version {info['version']}, protocol {info['protocol']}"
        same = info["protocol"] == PROTOCOL
    except (ValueError, LookupError, TypeError):
        found = f"answers {answer.status_code}: {answer.text[:200]}"
        return Check("Plugin", found, "See the log of that vLLM server.")
    other = f"This service speaks protocol {PROTOCOL}: install the same version in both."
    return Check("Plugin", found, None if same else other)


def _get(url: str, headers: dict[str, str] | None = None) -> httpx.Response | str:
    try:
        return httpx.get(url, headers=headers, timeout=TIMEOUT_S, trust_env=False)
    except httpx.HTTPError as exc:
        return f"{url} does not answer ({exc})"
