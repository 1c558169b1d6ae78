"""Which model is served, under which name."""

from pathlib import Path

import pytest

from app.errors import SetupError
from app.local.model import DEFAULT_MODEL, DEFAULT_VLLM_ARGS, Model, last_status, resolve_model


def ignore(_: str) -> None:
    pass


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    path = tmp_path / "my-model"
    path.mkdir()
    (path / "config.json").write_text("{}")
    return path


def test_a_directory_is_served_under_its_last_name(model_dir: Path, tmp_path: Path) -> None:
    assert resolve_model(str(model_dir), tmp_path, ignore) == Model(str(model_dir), "my-model")
    assert resolve_model(f"{model_dir}/", tmp_path, ignore) == Model(str(model_dir), "my-model")


def test_a_relative_directory_becomes_absolute(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert resolve_model("my-model", tmp_path, ignore).source == str(model_dir)


@pytest.mark.parametrize("name", ["gpt2", "Qwen/Qwen3-0.6B"])
def test_a_hub_name_is_left_to_vllm(name: str, tmp_path: Path) -> None:
    assert resolve_model(name, tmp_path, ignore) == Model(name, name)


@pytest.mark.parametrize("path", ["/nowhere/model", "./model", "../a/b", "~/model", "a/b/c", "model/"])
def test_a_path_that_is_not_there_is_named(path: str, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=f"MODEL: {path} does not exist"):
        resolve_model(path, tmp_path, ignore)


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"MODEL: .* has no config\.json"):
        resolve_model(str(tmp_path), tmp_path, ignore)


def test_the_default_model_is_found_where_it_was_made(tmp_path: Path) -> None:
    made = tmp_path / "models" / DEFAULT_MODEL
    made.mkdir(parents=True)
    assert resolve_model(None, tmp_path, ignore) == Model(str(made), DEFAULT_MODEL, DEFAULT_VLLM_ARGS)


def test_the_status_is_what_was_said_last(tmp_path: Path) -> None:
    log = tmp_path / "model.log"
    assert last_status(log) == "starting"
    log.write_text("status: downloading\nnoise\nstatus: converting\nnoise\n")
    assert last_status(log) == "converting"
