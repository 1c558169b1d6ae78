"""The scripts in docs/examples run as a reader runs them, against a service on real vLLM and Postgres."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "docs/examples").glob("*.py"))
PATIENCE_S = 200.0


def test_there_is_one_for_each_feature() -> None:
    assert {path.stem for path in EXAMPLES} >= {
        "background",
        "compaction",
        "contexts",
        "conversations",
        "mcp_tools",
        "websocket",
    }


@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
async def test_it_runs(script: Path, service_url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(script),
        env={**os.environ, "BASE_URL": f"{service_url}/v1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        said, failed = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, failed.decode()
    assert said, "it shows nothing"
