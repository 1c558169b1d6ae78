"""openai for JavaScript and the Vercel AI SDK: each script is a suite of node:test."""

from pathlib import Path

import pytest

from tests.clients.node import SCRIPTS, run_script
from tests.clients.shared import MODEL


@pytest.mark.parametrize("script", sorted(path.name for path in SCRIPTS.glob("*.mjs")))
def test_javascript(js_packages: Path, base_url: str, script: str) -> None:
    ran = run_script(js_packages, script, base_url, MODEL)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    assert "fail 0" in ran.stdout and "pass 0" not in ran.stdout, ran.stdout
