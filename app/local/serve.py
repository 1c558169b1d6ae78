"""`marginalia serve`: starts what the service needs, then serves until it is told to stop."""

import os
import secrets
import shlex
from contextlib import AbstractContextManager, ExitStack, closing

import httpx

from app.errors import SetupError
from app.local import state
from app.local.database import database_url, on_database
from app.local.keeper import Keeper
from app.local.listener import Listener, reserve, url_of
from app.local.model import resolve_model
from app.local.stages import Stages
from app.local.stop import stop_on_signals
from app.local.vllm import LocalVllm
from app.main import create_app
from app.settings import Settings
from app.store import migrate

READY_PATIENCE_S = 30.0
INTERRUPTED = 130
STAGES_WITH_VLLM, STAGES_WITHOUT = 6, 3


def serve(settings: Settings) -> int:
    """Run the service until a signal ends it; returns the exit status. Raises SetupError.

    Whatever was started is stopped on the way out, the last first.
    """
    ready = False
    with stop_on_signals():
        try:
            with ExitStack() as stack:
                listener = _start(settings, stack)
                ready = True
                listener.join()
        except KeyboardInterrupt:
            print("Stopped.", flush=True)
            return 0 if ready else INTERRUPTED
    raise SetupError("The service ended by itself", hint="The error above says why.")


def _start(settings: Settings, stack: ExitStack) -> Listener:
    sock = stack.enter_context(closing(reserve(settings.host, settings.port)))
    stages = Stages(STAGES_WITHOUT if settings.worker_urls else STAGES_WITH_VLLM)
    vllm: LocalVllm | None = None
    if settings.worker_urls:
        secret = settings.marginalia_secret.get_secret_value() if settings.marginalia_secret else None
        workers = [str(url).rstrip("/") for url in settings.worker_urls]
    else:
        claim = stack.enter_context(_claim(settings))
        vllm, secret = _start_vllm(settings, stack, stages)
        claim.publish(state.RunState(os.getpid(), url_of(sock), vllm.url, secret))
        workers = [vllm.url]
    # vLLM takes longest: the database gets ready while it loads.
    url = _prepare_database(settings, stack, stages)
    if vllm:
        _await_vllm(vllm, stack, stages)
    app = create_app(
        database_url=url,
        worker_urls=workers,
        secret=secret,
        prefix_ttl_seconds=settings.prefix_ttl_seconds,
        keep_token_ids=settings.keep_token_ids,
        prefix_policy=settings.prefix_policy,
        conversation_busy=settings.conversation_busy,
        background_concurrency=settings.background_concurrency,
        background_stalled_seconds=settings.background_stalled_seconds,
        mcp_timeout_seconds=settings.mcp_timeout_seconds,
        mcp_allowed_hosts=settings.mcp_allowed_hosts,
    )
    listener = Listener(app, sock)
    stack.callback(listener.stop)
    with stages.stage("Service") as stage:
        listener.start()
        problem = listener.wait_ready(READY_PATIENCE_S)
        stage.done(f"answers at {listener.url}" + (" but is not ready" if problem else ""))
    if problem:
        print(f"/ready says: {problem}\n`make doctor` tells what is wrong.", flush=True)
    _say_ready(listener.url, vllm.served_name if vllm else _first_model(listener.url))
    return listener


def _claim(settings: Settings) -> AbstractContextManager[state.Claim]:
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise SetupError(
            f"DATA_DIR: {settings.data_dir} cannot be made: {exc.strerror}",
            hint="Set DATA_DIR to a directory that you may write to.",
        ) from exc
    return state.claim(settings.data_dir)


def _start_vllm(settings: Settings, stack: ExitStack, stages: Stages) -> tuple[LocalVllm, str]:
    given = settings.marginalia_secret
    secret = given.get_secret_value() if given else secrets.token_urlsafe(32)
    with stages.stage("Model") as stage:
        model = resolve_model(settings.model or None, settings.data_dir, stage.status)
        stage.done(model.source)
    try:
        extra_args = [*model.vllm_args, *shlex.split(settings.vllm_args)]
    except ValueError as exc:
        raise SetupError(f"VLLM_ARGS: {exc}", hint="Quote its parts as in a shell.") from exc
    log_dir = settings.data_dir / "logs"
    vllm = LocalVllm(model.source, model.served_name, log_dir=log_dir, secret=secret, extra_args=extra_args)
    stack.callback(vllm.stop)
    with stages.stage("vLLM process") as stage:
        vllm.start()
        stage.done(f"started, log in {vllm.log}")
    return vllm, secret


def _prepare_database(settings: Settings, stack: ExitStack, stages: Stages) -> str:
    with stages.stage("Postgres") as stage:
        url = stack.enter_context(database_url(settings, say=_say))
        stage.done("DATABASE_URL" if settings.database_url else f"embedded, in {settings.data_dir}")
    with stages.stage("Migrations") as stage:
        on_database(url, migrate.upgrade)
        stage.done(f"at {migrate.head()}")
    return url


def _await_vllm(vllm: LocalVllm, stack: ExitStack, stages: Stages) -> None:
    with stages.stage("vLLM") as stage:
        took = vllm.wait_ready(stage.status)
        stage.done(f"answers, {took:.0f} s after its start")
    stack.enter_context(Keeper(vllm, _say))


def _say(text: str) -> None:
    print(text, flush=True)


def _first_model(url: str) -> str:
    try:
        return str(httpx.get(f"{url}/v1/models", timeout=5.0, trust_env=False).json()["data"][0]["id"])
    except (httpx.HTTPError, LookupError, TypeError, ValueError):
        return "the-model"


def _say_ready(url: str, model: str) -> None:
    # Not indented, so that it can be pasted into a shell as it is.
    print(
        f"""
Marginalia is ready: {url}/v1

Two turns, from another terminal in this directory:

.venv/bin/python - <<'END'
from openai import OpenAI
client = OpenAI(base_url="{url}/v1", api_key="unused")
ask = lambda text, **more: client.responses.create(
    model="{model}", input=text, max_output_tokens=100, temperature=0, **more
)
first = ask("Name three rivers in Europe.")
print(first.output_text)
second = ask("Which of them is the longest?", previous_response_id=first.id)
print(second.output_text)
print(second.caching)
END

Ctrl-C stops everything.""",
        flush=True,
    )
