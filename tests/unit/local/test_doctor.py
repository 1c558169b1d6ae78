"""What doctor says about a worker, and that the console script fails with words, not tracebacks."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest

from app import cli
from app.local import doctor
from app.local.doctor import Check, check_plugin, check_worker
from app.prefix.wire import PROTOCOL, SECRET_HEADER

SECRET = "s3cret"


class Worker:
    """A vLLM as far as doctor can see: `answers` is by path, as (status, JSON text)."""

    def __init__(self) -> None:
        self.answers = {
            "/health": (200, ""),
            "/v1/models": (200, '{"data": [{"id": "tiny"}]}'),
            "/prefix/v1/info": (200, f'{{"version": "0.1.0", "protocol": {PROTOCOL}}}'),
        }
        self.secrets: list[str | None] = []
        worker = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                worker.secrets.append(self.headers[SECRET_HEADER])
                status, text = worker.answers.get(self.path, (404, ""))
                self.send_response(status)
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    monkeypatch.setattr(doctor, "TIMEOUT_S", 60.0)
    fake = Worker()
    thread = threading.Thread(target=fake.server.serve_forever, args=(0.01,))
    thread.start()
    yield fake
    fake.server.shutdown()
    thread.join()
    fake.server.server_close()


def test_a_worker_in_order(worker: Worker) -> None:
    checks = list(check_worker(worker.url, SECRET))
    assert [check.subject for check in checks] == ["vLLM", "Model", "Plugin"]
    assert [check.todo for check in checks] == [None] * 3
    assert checks[1].found == "tiny"
    assert worker.secrets[-1] == SECRET


@pytest.mark.parametrize(
    ("answer", "found", "todo"),
    [
        ((404, ""), "not loaded", "VLLM_PLUGINS=marginalia"),
        ((401, ""), "refuses our secret", "MARGINALIA_SECRET"),
        ((403, ""), "refuses our secret", "MARGINALIA_SECRET"),
        ((500, "oops"), "answers 500: oops", "log"),
        ((200, '{"version": "9", "protocol": 99}'), "protocol 99", f"protocol {PROTOCOL}"),
    ],
)
def test_a_plugin_out_of_order(worker: Worker, answer: tuple[int, str], found: str, todo: str) -> None:
    worker.answers["/prefix/v1/info"] = answer
    check = check_plugin(worker.url, SECRET)
    assert found in check.found
    assert check.todo and todo in check.todo


def test_a_missing_secret_is_told_from_a_wrong_one(worker: Worker) -> None:
    worker.answers["/prefix/v1/info"] = (401, "")
    assert "MARGINALIA_SECRET is not set" in check_plugin(worker.url, None).found


def test_a_sick_engine_and_an_absent_server(worker: Worker) -> None:
    worker.answers["/health"] = (503, "")
    sick = next(iter(check_worker(worker.url, SECRET)))
    assert sick.todo and "engine" in sick.todo
    absent = list(check_worker("http://127.0.0.1:1", SECRET))
    assert len(absent) == 1, "the rest would only say the same"
    assert absent[0].todo


def test_a_check_is_one_line_and_what_to_do() -> None:
    assert str(Check("vLLM", "fine")) == "ok    vLLM: fine"
    assert str(Check("vLLM", "gone", "start it")) == "FAIL  vLLM: gone\n      -> start it"


def test_a_bad_setting_is_named_and_nothing_else_happens(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PORT", "many")
    assert cli.main(["doctor"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("\nmarginalia doctor failed. PORT: ")
    assert "What to do: Correct or unset PORT" in error


@pytest.mark.parametrize("command", [["doctor"], ["db", "upgrade"], ["db", "downgrade"]])
def test_a_database_that_is_not_there_is_no_traceback(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody:pa55word@127.0.0.1:1/nothing")
    monkeypatch.setenv("WORKER_URLS", "http://127.0.0.1:1")
    monkeypatch.setattr(doctor, "TIMEOUT_S", 1.0)
    assert cli.main(command) == 1
    captured = capsys.readouterr()
    assert "The database cannot be reached" in captured.out + captured.err
    assert "pa55word" not in captured.out + captured.err
