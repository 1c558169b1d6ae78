"""What gets installed where, and when an environment counts as installed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from app.local import target as targets
from app.local.target import Target, choose

SITE = Path("/opt/vllm/site-packages")
PYPROJECT = '[project]\nname = "x"\ndependencies = ["a"]\n[tool.ruff]\nline-length = 110\n'


def extras(*, dev: bool = False, gpu: bool = False, site: Path | None = None, **environ: str) -> set[str]:
    more = frozenset({"dev"} if dev else ())
    return set(choose(more, gpu=gpu, vllm_site=site, environ=environ).extras)


def test_without_a_gpu_the_cpu_build_is_installed() -> None:
    assert extras() == {"cpu", "model"}
    assert extras(dev=True) == {"cpu", "model", "dev"}


def test_an_installed_gpu_build_is_used_where_there_is_a_gpu() -> None:
    target = choose(frozenset(), gpu=True, vllm_site=SITE, environ={})
    assert (target.extras, target.vllm_site) == ({"model"}, SITE)


def test_a_gpu_alone_gets_the_cpu_build_and_a_word_about_it() -> None:
    target = choose(frozenset(), gpu=True, vllm_site=None, environ={})
    assert (target.extras, target.vllm_site) == ({"cpu", "model"}, None)
    assert target.note and "pip install 'vllm==" in target.note


def test_vllm_without_a_gpu_is_not_used() -> None:
    assert choose(frozenset(), gpu=False, vllm_site=SITE, environ={}).vllm_site is None


def test_workers_elsewhere_need_no_vllm_here_but_the_tests_do() -> None:
    assert extras(WORKER_URLS="http://gpu-box:8000") == set()
    assert extras(WORKER_URLS=" ") == {"cpu", "model"}
    assert extras(WORKER_URLS="http://gpu-box:8000", dev=True) == {"cpu", "model", "dev"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    return tmp_path


RUN, TEST = Target(frozenset({"cpu", "model"})), Target(frozenset({"cpu", "model", "dev"}))


def installed(root: Path, target: Target) -> bool:
    return targets.is_installed(root / ".venv", root, target)


def test_nothing_is_installed_before_the_stamp(root: Path) -> None:
    assert not installed(root, RUN)
    targets.write_stamp(root / ".venv", root, RUN)
    assert installed(root, RUN)


def test_more_than_is_needed_will_do_and_less_will_not(root: Path) -> None:
    targets.write_stamp(root / ".venv", root, RUN)
    assert not installed(root, TEST)
    targets.write_stamp(root / ".venv", root, TEST)
    assert installed(root, RUN)


def test_new_dependencies_are_installed_and_new_lint_rules_are_not(root: Path) -> None:
    targets.write_stamp(root / ".venv", root, RUN)
    (root / "pyproject.toml").write_text(PYPROJECT.replace("110", "100"))
    assert installed(root, RUN)
    (root / "pyproject.toml").write_text(PYPROJECT.replace('"a"', '"a", "b"'))
    assert not installed(root, RUN)


def test_another_vllm_or_no_python_means_to_install_again(root: Path) -> None:
    targets.write_stamp(root / ".venv", root, RUN)
    assert not installed(root, replace(RUN, vllm_site=SITE))
    (root / ".venv" / "bin" / "python").unlink()
    assert not installed(root, RUN)


@pytest.mark.parametrize("stamp", ["", "{", "[]", json.dumps({"fingerprint": 1}), "null"])
def test_a_broken_stamp_is_none(root: Path, stamp: str) -> None:
    (root / ".venv" / targets.STAMP).write_text(stamp)
    assert not installed(root, RUN)
