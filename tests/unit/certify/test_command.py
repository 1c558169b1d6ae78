"""The command as it is typed: exit status, stdout and stderr."""

import json
import shutil
from pathlib import Path

import pytest

from app.certify.boundaries import boundaries
from app.certify.offline import Offline
from app.cli import main
from tests.unit.certify.templates import APPEND_ONLY


@pytest.fixture
def template(tmp_path: Path) -> Path:
    file = tmp_path / "chat.jinja"
    file.write_text(APPEND_ONLY)
    return file


def test_an_exact_model(tokenizer_dir: Path, template: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["certify", str(tokenizer_dir), "--chat-template", str(template), "--turns", "10"]
    assert main([*arguments, "--json", "--seed", "5"]) == 0
    said = capsys.readouterr()
    assert "loading the tokenizer" in said.err and "10 of 10" in said.err
    certificate = json.loads(said.out)
    assert (certificate["exact"], certificate["append_only"], certificate["refusal"]) == (True, True, None)
    assert certificate["chat_template"] == "chat.jinja"
    assert certificate["parity"]["seed"] == 5 and certificate["parity"]["turns"] >= 10
    assert {reuse["path"] for reuse in certificate["reuse"]} == {"hit"}
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "Append-only" in text and "EXACT: no difference in " in text
    assert "'<|im_start|>'" in text


def test_what_can_never_be_continued(
    tokenizer_dir: Path, template: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    template.write_text("{{ raise_exception('not with me') }}")
    assert main(["certify", str(tokenizer_dir), "--chat-template", str(template)]) == 1
    assert "NOTHING CAN BE CONTINUED: the chat template refuses even one user message: not with me" in (
        capsys.readouterr().out
    )


def test_no_chat_template(tokenizer_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", str(tokenizer_dir)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "has no chat template" in said.err and "--chat-template FILE" in said.err


@pytest.mark.parametrize(
    ("missing", "message"),
    [("", "is no directory"), ("tokenizer.json", "has no tokenizer.json"), ("all of it", "is a file")],
)
def test_what_is_missing_is_named(
    missing: str, message: str, tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    if missing == "all of it":
        model.write_text("")
    elif missing:
        shutil.copytree(tokenizer_dir, model)
        (model / missing).unlink()
    assert main(["certify", str(model)]) == 2
    assert f"{model} {message}" in capsys.readouterr().err


def test_files_that_are_not_what_they_should_be(
    tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["certify", str(tokenizer_dir), "--chat-template", str(tmp_path / "none")]) == 2
    assert "--chat-template: " in capsys.readouterr().err
    (tmp_path / "tokenizer.json").write_text("{}")
    assert main(["certify", str(tmp_path)]) == 2
    assert "is no tokenizer" in capsys.readouterr().err


def test_a_configuration_that_vllm_does_not_take(
    tokenizer_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = shutil.copytree(tokenizer_dir, tmp_path / "model")
    (model / "config.json").write_text('{"model_type": "no-such-model"}')
    assert main(["certify", str(model)]) == 2
    assert "vLLM cannot load model" in capsys.readouterr().err


def test_a_hub_name_is_told_how_to_be_fetched(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["certify", "Someone/Some-Model"]) == 2
    assert "hf download Someone/Some-Model" in capsys.readouterr().err


def test_every_added_token_is_safe_or_has_a_reason(worker: Offline) -> None:
    assert worker.boundary_tokenizer is not None
    found = boundaries(worker.boundary_tokenizer, "<|im_end|>\n<|im_start|>x")
    assert found.safe == ["<|im_start|>", "<|im_end|>\n"]
    assert found.in_use == ["<|im_end|>\n", "<|im_start|>"]
    assert {unsafe.token: unsafe.reason for unsafe in found.unsafe} == {
        "<|im_end|>": "another added token begins with it or holds it",
        "<|pad|>": "takes in the blanks beside it",
    }


def test_a_tokenizer_alone_is_loaded_as_it_stands(worker: Offline, tokenizer_dir: Path) -> None:
    """tokenizer_config.json names a class of transformers that would make another one of its own."""
    text = "a  b\n\nété <|im_start|>"
    bytes_of_text = len("a  b\n\nété ".encode()) + 1
    assert len(worker.encode(text)) == bytes_of_text
    assert not (tokenizer_dir / "config.json").exists()
