"""Who may import whom (docs: ARCHITECTURE's table), read from the source, so that no path escapes a test."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
APP = ROOT / "app"
EVERYTHING = frozenset({"*"})

ARROWS = {
    "errors": set(),
    "settings": {"errors", "pydantic", "pydantic_settings"},
    "prefix": {"errors", "prefix", "xxhash", "msgspec"},
    # The SDK's own response types are the vocabulary of the domain.
    "conversation": {"conversation", "prefix", "errors", "openai.types", "pydantic", "cryptography"},
    "store": {"store", "conversation", "prefix", "errors", "sqlalchemy", "alembic", "asyncpg", "migrations"},
    "engine": {"engine", "conversation", "prefix", "errors", "httpx", "httpx_sse", "aiohttp", "msgspec"},
    "jobs": {"jobs", "conversation", "errors", "procrastinate", "psycopg", "psycopg_pool"},
    # Another process: it shares nothing with the service but the wire.
    "vllm_plugin": {
        "vllm_plugin",
        "prefix",
        "errors",
        "vllm",
        "fastapi",
        "msgspec",
        "numpy",
        "tokenizers",
        "xxhash",
    },
    "api": {
        "api",
        "conversation",
        "errors",
        "prefix.wire",  # the headers that tell a client what its turn did
        "fastapi",
        "starlette",
        "pydantic",
        "pydantic_core",
        "openai.types",
        "msgspec",
    },
    # Stands where the plugin stands, beside vLLM, and drives it.
    "certify": {"certify", "vllm_plugin", "prefix", "errors", "vllm", "tokenizers", "msgspec"},
    "mcp": {"mcp", "conversation", "mcp_types", "httpx2"},
    "ui": {"ui", "conversation", "errors", "fastapi", "starlette", "pydantic"},
    "local": {"local", "errors", "settings"},
    "main": EVERYTHING,
    "cli": EVERYTHING,
}
"""Per package: packages of app/ and third parties, as dotted prefixes. The standard library is free."""

FILES = {
    "vllm_plugin/prompt_ids.py": {"numpy", "torch"},
    "vllm_plugin/staged_ids.py": {"vllm_plugin", "vllm", "numpy", "torch"},
    "vllm_plugin/sandbox.py": {"jinja2"},
    "local/bootstrap.py": {"local"},
    "local/install.py": {"local", "errors"},
    "local/target.py": set[str](),
    "local/pip.py": {"errors"},
    "local/stages.py": set[str](),
    "local/guard.py": set[str](),
    "local/database.py": {"local", "errors", "settings", "store.database"},
    "local/postgres.py": {"local", "errors", "asyncpg"},
    "local/convert.py": {"torch", "transformers", "tokenizers"},
    "local/vllm.py": {"local", "errors", "httpx"},
    "local/listener.py": {"errors", "api.body", "httpx", "uvicorn", "fastapi"},
    "local/serve.py": {"local", "errors", "settings", "store.migrate", "main", "httpx"},
    "local/doctor.py": {
        "local",
        "errors",
        "settings",
        "store.migrate",
        "store.database",
        "prefix.wire",
        "httpx",
        "sqlalchemy",
    },
}
"""Files that need something else than their package: all that they may import."""

BEFORE_INSTALL = ("bootstrap", "install", "target", "pip", "stages")


def imports_of(source: str) -> Iterator[str]:
    """Absolute dotted names that `source` imports, with the imported name for `from a import b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names)


def violations(path: str, source: str) -> list[str]:
    """Imports of `source`, the file `path` below app/, that the tables do not allow."""
    package = path.split("/")[0].removesuffix(".py")
    allowed = FILES.get(path, ARROWS.get(package))
    if allowed is None:
        return [f"{path}: the package {package} is not in the table"]
    if allowed == EVERYTHING:
        return []
    return [f"{path}: {name}" for name in imports_of(source) if not is_allowed(name, package, allowed)]


def is_allowed(name: str, package: str, allowed: set[str] | frozenset[str]) -> bool:
    top = name.split(".")[0]
    if top in sys.stdlib_module_names:
        return True
    inner = name.removeprefix("app.") if top == "app" else name
    if top == "app" and inner.split(".")[0] not in ARROWS:
        return False  # `from app import …` of something that is no package: name it in full
    return any(inner == entry or inner.startswith(entry + ".") for entry in allowed)


def sources() -> dict[str, str]:
    return {str(path.relative_to(APP)): path.read_text() for path in sorted(APP.rglob("*.py"))}


def test_no_import_outside_the_table() -> None:
    found = [line for path, source in sources().items() if source for line in violations(path, source)]
    assert not found, "\n".join(["imports that ARCHITECTURE.md does not allow:", *found])


def test_the_tables_name_only_what_exists() -> None:
    assert [path for path in FILES if not (APP / path).exists()] == []


def test_set_up_needs_nothing_installed() -> None:
    for name in BEFORE_INSTALL:
        others = {n for n in imports_of((APP / "local" / f"{name}.py").read_text()) if n.startswith("app.")}
        allowed = {"app.errors.SetupError", "app.local.target"} | {f"app.local.{n}" for n in BEFORE_INSTALL}
        assert {n for n in others if not any(n == a or n.startswith(a + ".") for a in allowed)} == set(), name


def test_the_service_starts_without_the_sdk_of_mcp() -> None:
    """It takes half a second: those who use it wait for it."""
    program = "import sys, app.main; sys.exit('mcp' in sys.modules or 'mcp_types' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0


def test_only_one_file_commits() -> None:
    """No transaction outlives its statement by accident: `begin` and `commit` stand in one file of app/."""
    committing = {path for path, source in sources().items() if transacts(source)}
    assert len(committing) <= 1, committing


def transacts(source: str) -> bool:
    """Whether `source` calls a method named `commit` or `begin`."""
    calls = (node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return any(isinstance(call, ast.Attribute) and call.attr in ("commit", "begin") for call in calls)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("conversation/a.py", "from app.store.responses import Responses"),
        ("conversation/a.py", "import sqlalchemy"),
        ("conversation/a.py", "from openai import OpenAI"),
        ("vllm_plugin/a.py", "def f():\n    from app import settings"),
        ("vllm_plugin/a.py", "from app.engine import pool"),
        ("prefix/a.py", "import app.conversation.records"),
        ("prefix/a.py", "from ..store import database"),
        ("local/stages.py", "from app.errors import SetupError"),
        ("local/a.py", "from app.main import create_app"),
        ("nowhere/a.py", "import os"),
    ],
)
def test_it_sees_a_wrong_arrow(path: str, source: str) -> None:
    assert violations(path, source)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("conversation/a.py", "from openai.types.responses import Response"),
        ("engine/a.py", "import httpx, asyncio\nfrom app.prefix.wire import PROTOCOL"),
        ("store/a.py", "from sqlalchemy.ext.asyncio import AsyncEngine"),
        ("main.py", "import uvicorn"),
    ],
)
def test_it_lets_right_arrows_pass(path: str, source: str) -> None:
    assert violations(path, source) == []
