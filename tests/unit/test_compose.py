"""docker-compose.yml: valid for the compose client, no secret in it, nothing published but the service."""

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
SECRETS = {"MARGINALIA_SECRET": "dummy1", "POSTGRES_PASSWORD": "dummy2"}
PROFILES = ["--profile", "gpu", "--profile", "cpu"]


@cache
def client() -> list[str] | None:
    """The compose client of this machine; `config` needs no engine."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]):
            try:
                if subprocess.run([*command, "version"], capture_output=True).returncode == 0:
                    return command
            except OSError:
                continue
    return None


needs_client = pytest.mark.skipif(client() is None, reason="no docker compose on this machine")


def config(*args: str, **settings: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(ROOT), **settings}
    command = [*(client() or []), *args]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True)


def services() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())["services"]
    return loaded


@needs_client
@pytest.mark.parametrize("profiles", [[], PROFILES])
def test_compose_accepts_the_file(profiles: list[str]) -> None:
    ran = config(*profiles, "config", "-q", **SECRETS)
    assert ran.returncode == 0, ran.stderr


@needs_client
@pytest.mark.parametrize("missing", SECRETS)
def test_a_missing_secret_is_refused_by_name(missing: str) -> None:
    ran = config("config", "-q", **{name: value for name, value in SECRETS.items() if name != missing})
    assert ran.returncode != 0
    assert missing in ran.stderr


def test_no_secret_has_a_value_or_a_default() -> None:
    text = COMPOSE.read_text()
    for name in SECRETS:
        assert re.search(rf"\$\{{{name}:\?", text), f"{name} is not required"
        assert not re.search(rf"\$\{{{name}:?-", text), f"{name} has a default"
        written = [line for line in text.splitlines() if re.match(rf"\s*{name}:", line)]
        assert all("${" + name in line for line in written), written


def test_only_the_service_is_published() -> None:
    assert {name for name, service in services().items() if "ports" in service} == {"service"}
    assert services()["service"]["ports"] == ["${BIND_ADDRESS:-127.0.0.1}:${PORT:-8080}:8080"]
    assert not [name for name, service in services().items() if service.get("network_mode") == "host"]


def test_the_service_waits_for_postgres_and_migrations() -> None:
    assert services()["service"]["depends_on"] == {
        "postgres": {"condition": "service_healthy"},
        "migrate": {"condition": "service_completed_successfully"},
    }
    assert services()["migrate"]["command"] == ["marginalia", "db", "upgrade"]


def test_images_are_built_from_targets_that_exist() -> None:
    stages = set(re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    built = {service["build"]["target"] for service in services().values() if "build" in service}
    assert built == stages == {"service", "vllm", "vllm-cpu"}


def test_both_vllms_answer_to_the_name_that_the_service_asks_for() -> None:
    for name in ("vllm", "vllm-cpu"):
        assert services()[name]["networks"]["default"]["aliases"] == ["worker"]
    assert services()["service"]["environment"]["WORKER_URLS"] == "http://worker:8000"
