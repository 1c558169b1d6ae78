"""`marginalia serve` from the first line it prints to the last process it leaves."""

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.service import Service, command, environment, free_port, processes_of, wait_until

# An orphan ends once its guard saw that its owner is gone.
ORPHANS_GONE_S = 60.0


@pytest.fixture(scope="module")
def running(reachable_dir: Path, default_model_dir: Path) -> Iterator[Service]:
    """One service for the tests of this file; the last of them stops it."""
    service = Service(reachable_dir / "serve", MODEL=str(default_model_dir))
    try:
        service.wait_ready()
        yield service
    finally:
        service.destroy()


@pytest.fixture
def start(data_dir: Path, default_model_dir: Path) -> Iterator[Callable[..., Service]]:
    """Starts services of the test's own."""
    services = []

    def start_one(**settings: str) -> Service:
        services.append(Service(data_dir, **{"MODEL": str(default_model_dir), **settings}))
        return services[-1]

    yield start_one
    for service in services:
        service.destroy()


def test_it_says_ready_once_it_answers(running: Service) -> None:
    assert httpx.get(f"http://127.0.0.1:{running.port}/ready", timeout=60, trust_env=False).status_code == 200
    stages = [line for line in running.output.splitlines() if line.startswith("[6/6]")]
    assert stages, running.output


def test_the_example_of_the_ready_notice_works(running: Service) -> None:
    program = [sys.executable, "-c", running.example()]
    ran = subprocess.run(program, env=running.env, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr
    assert "'path': 'hit'" in ran.stdout


def test_doctor_finds_all_well(running: Service) -> None:
    ran = command("doctor", env=environment(running.data_dir))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for subject in ("Postgres", "Migrations", "Service", "vLLM", "Model", "Plugin"):
        assert f"ok    {subject}: " in ran.stdout


def test_doctor_says_that_the_secret_is_wrong(running: Service) -> None:
    worker = vllm_url(running)
    env = environment(running.data_dir, WORKER_URLS=worker, MARGINALIA_SECRET=secrets.token_hex())
    ran = command("doctor", env=env)
    assert ran.returncode == 1
    assert "FAIL  Plugin: refuses our secret" in ran.stdout


def test_the_secret_is_nowhere_to_be_seen(running: Service) -> None:
    state = running.data_dir / "serve.json"
    secret = state.read_text().split('"secret": "')[1].split('"')[0]
    assert state.stat().st_mode & 0o777 == 0o600
    assert secret not in running.output
    assert secret not in (running.data_dir / "logs" / "vllm.log").read_text()
    assert not [line for line in processes_of(running.data_dir).values() if secret in line]


def test_a_second_one_on_the_same_data_is_refused(running: Service) -> None:
    ran = command("serve", env=environment(running.data_dir, PORT=str(free_port())))
    assert ran.returncode == 1
    assert (
        f"DATA_DIR: another Marginalia runs on {running.data_dir}, process {running.process.pid}"
        in ran.stderr
    )


def test_a_dead_vllm_is_started_again_under_its_url(running: Service) -> None:
    url = vllm_url(running)
    servers = [pid for pid, line in processes_of(running.data_dir).items() if "-m vllm.entry" in line]
    guarded = [pid for pid in servers if os.getpgid(pid) == pid and "guard.py" not in cmdline(pid)]
    os.killpg(guarded[0], signal.SIGKILL)
    running.wait_for("vLLM ended; starting it again (1 of 3)")
    running.wait_for("vLLM answers again")
    assert httpx.get(f"{url}/health", timeout=60, trust_env=False).status_code == 200


def test_ctrl_c_leaves_nothing(running: Service) -> None:
    assert len(processes_of(running.data_dir)) > 5
    assert running.end(signal.SIGINT) == 0
    assert running.output.endswith("\nStopping ...\nStopped.\n")
    assert processes_of(running.data_dir) == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_set_up_leaves_nothing(
    start: Callable[..., Service], number: signal.Signals
) -> None:
    service = start()
    service.wait_for("[5/6] vLLM")
    assert service.end(number) == 130
    assert "Traceback" not in service.output
    assert processes_of(service.data_dir) == {}


def test_kill_9_leaves_nothing_for_long(start: Callable[..., Service]) -> None:
    service = start()
    service.wait_for("[5/6] vLLM")
    service.end(signal.SIGKILL)
    assert wait_until(lambda: not processes_of(service.data_dir), ORPHANS_GONE_S), processes_of(
        service.data_dir
    )


def test_a_port_in_use_is_found_before_the_slow_stages(start: Callable[..., Service]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        service = start(PORT=str(port))
        assert service.process.wait(120) == 1
    service.wait_for(f"PORT: 127.0.0.1:{port} cannot be used: Address already in use")
    assert "[1/" not in service.output
    assert "Traceback" not in service.output


def test_a_model_that_is_not_there_is_named(start: Callable[..., Service]) -> None:
    service = start(MODEL="/nowhere/model")
    assert service.process.wait(120) == 1
    service.wait_for("MODEL: /nowhere/model does not exist")


def test_a_vllm_that_dies_says_why(start: Callable[..., Service]) -> None:
    service = start(VLLM_ARGS="--no-such-thing")
    assert service.process.wait(120) == 1
    service.wait_for("unrecognized arguments: --no-such-thing")
    service.wait_for("What to do: Correct VLLM_ARGS")
    assert "Traceback" not in service.output
    assert processes_of(service.data_dir) == {}


def vllm_url(service: Service) -> str:
    return (service.data_dir / "serve.json").read_text().split('"worker_url": "')[1].split('"')[0]


def cmdline(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
