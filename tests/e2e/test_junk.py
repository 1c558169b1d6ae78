"""Junk that no OpenAPI document leads to, against the real service: never a 5xx, always OpenAI's envelope."""

import gzip
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from app.api.body import MAX_BODY_BYTES
from tests import contract

CREATE, COUNT = "/v1/responses", "/v1/responses/input_tokens"


@pytest.fixture(scope="module")
def http(service_url: str) -> Iterator[httpx.Client]:
    json_by_its_own_account = {"content-type": "application/json"}
    with httpx.Client(base_url=service_url, timeout=120, headers=json_by_its_own_account) as client:
        yield client


def body(**fields: Any) -> bytes:
    return json.dumps({"input": "x", "max_output_tokens": 1, **fields}).encode()


def nested(depth: int) -> Any:
    return json.loads('{"not":' * depth + "{}" + "}" * depth)


def schema(value: Any) -> dict[str, Any]:
    return {"text": {"format": {"type": "json_schema", "name": "n", "schema": value}}}


def custom(regex: str) -> dict[str, Any]:
    tool = {
        "type": "custom",
        "name": "f",
        "format": {"type": "grammar", "syntax": "regex", "definition": regex},
    }
    return {"tools": [tool], "tool_choice": "required"}


def function(parameters: Any) -> dict[str, Any]:
    return {"tools": [{"type": "function", "name": "f", "parameters": parameters}]}


def call(arguments: str, **fields: str) -> dict[str, Any]:
    called = {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments, **fields}
    return {"input": [called, {"type": "function_call_output", "call_id": called["call_id"], "output": "x"}]}


def image(url: str) -> dict[str, Any]:
    return {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": url}]}]}


NOT_JSON = {
    "nothing": b"",
    "another encoding": '{"input": "\xe9"}'.encode("latin-1"),
    "a byte order mark": '\ufeff{"input": "x"}'.encode(),
    "half a pair of surrogates": b'{"input": "\\ud800"}',
    "half a pair in a key": b'{"input": "x", "metadata": {"\\udc00": "a"}}',
    "gzip": gzip.compress(body()),
    "10,000 brackets": b"[" * 10_000,
    "10,000 objects": b'{"input":' * 10_000,
    "a number of 5,000 digits": b'{"input": "x", "seed": 1' + b"0" * 5000 + b"}",
    "a control character": b'{"input": "\x01"}',
    "more after it": body() + b"{}",
}


@pytest.mark.parametrize("path", [CREATE, COUNT])
@pytest.mark.parametrize("content", NOT_JSON.values(), ids=NOT_JSON)
def test_what_is_no_json_is_a_400(http: httpx.Client, content: bytes, path: str) -> None:
    answer = http.post(path, content=content)
    assert answer.status_code == 400
    contract.check_error(answer.json())
    assert answer.json()["error"]["code"] == "invalid_json"


SEALED = {"type": "reasoning", "encrypted_content": "mr1_\u00e9"}
REFUSED: list[tuple[str, dict[str, Any], str | None]] = [
    ("NUL in an id", {"previous_response_id": "\0"}, "previous_response_id"),
    ("a long id", {"previous_response_id": "r" * 100_000}, "previous_response_id"),
    ("NUL in a reference", {"input": [{"type": "item_reference", "id": "\0"}]}, "input[0].id"),
    ("NUL in a model", {"model": "\0"}, "model"),
    ("a long model", {"model": "m" * 100_000}, "model"),
    ("more tokens than there are", {"max_output_tokens": (1 << 63) - 1}, "max_output_tokens"),
    ("a schema nested 190 deep", schema(nested(180)), None),
    ("a schema of no type", schema({"type": "abacus"}), "text.format"),
    ("a large number in a schema", schema({"minimum": 1 << 70}), "text.format.schema"),
    (
        "a large number in a grammar",
        {"structured_outputs": {"json": {"a": 1 << 64}}},
        "structured_outputs.json",
    ),
    ("a large number in parameters", function({"minProperties": 1 << 64}), "tools[0].parameters"),
    ("a large number for the template", {"chat_template_kwargs": {"a": 10**400}}, "chat_template_kwargs"),
    ("no grammar in a grammar", {"structured_outputs": {}}, "structured_outputs"),
    ("a regex that does not close", custom("(("), "tools"),
    ("a regex that opens a lot", custom("(" * 5000), "tools"),
    ("a token that is none", {"logit_bias": {"x" * 10_000: 1}}, "logit_bias"),
    ("a token beyond the vocabulary", {"logit_bias": {"99999999": 1}}, "logit_bias"),
    ("an empty stop", {"stop": [""]}, "stop"),
    ("an empty bad word", {"bad_words": [""]}, "bad_words"),
    ("no allowed token", {"allowed_token_ids": []}, "allowed_token_ids"),
    ("a minimum over the maximum", {"min_tokens": 5}, "min_tokens"),
    ("an image from a file", image("file:///etc/passwd"), "input"),
    ("an image that is none", image("\0"), "input"),
    ("sealed junk", {"input": [SEALED]}, "input[0].encrypted_content"),
    ("20,000 messages", {"input": [{"role": "user", "content": "x"}] * 20_000}, "input"),
    ("a text that is too long", {"input": "word " * 2_000_000}, "input"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("fields", "param"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_what_cannot_be_is_refused(
    http: httpx.Client, fields: dict[str, Any], param: str | None, stream: bool
) -> None:
    answer = http.post(CREATE, content=body(**fields, stream=stream))
    if answer.status_code == 200:  # vLLM said so late: the stream had begun
        last = json.loads(answer.text.split("data: ")[-1])
        assert stream
        assert last["response"]["error"]["code"] == "invalid_prompt"
        return
    assert answer.status_code in (400, 404)
    contract.check_error(answer.json())
    assert answer.json()["error"]["param"] == param


ODD: list[tuple[str, dict[str, Any]]] = [
    ("NUL everywhere", {"input": "a\0", "instructions": "\0", "metadata": {"\0": "\0"}, "user": "\0"}),
    ("NUL in a comparison", {"prompt_cache_options": {"comparison_response_id": "\0"}}),
    ("NUL in a key", {"prompt_cache_key": "\0"}),
    ("NUL in a call", call("{}", call_id="\0", name="\0")),
    ("arguments that are no JSON", call("{")),
    ("arguments that are no object", call("3", name="")),
    ("reasoning alone", {"input": [{"type": "reasoning", "summary": []}]}),
    ("an answer without a question", {"input": [{"role": "assistant", "content": []}]}),
    ("much for the template", {"chat_template_kwargs": {"a": nested(180)}}),
    ("the smallest numbers", {"temperature": 1e-320, "top_p": 1e-320, "repetition_penalty": 1e-320}),
    ("the largest numbers", {"repetition_penalty": 1e308, "top_k": (1 << 31) - 1, "seed": (1 << 63) - 1}),
    ("500 tools", {"tools": [{"type": "function", "name": f"f{n}"} for n in range(500)]}),
]


@pytest.mark.parametrize("fields", [row[1] for row in ODD], ids=[row[0] for row in ODD])
def test_what_is_odd_is_answered_and_kept(http: httpx.Client, fields: dict[str, Any]) -> None:
    answer = http.post(CREATE, content=body(**fields))
    assert answer.status_code == 200, answer.text
    contract.check_response(answer.json())
    assert http.get(f"{CREATE}/{answer.json()['id']}").json() == answer.json()
    assert http.get(f"{CREATE}/{answer.json()['id']}/input_items").status_code == 200


def test_the_last_of_two_fields_of_a_name_counts(http: httpx.Client) -> None:
    answer = http.post(CREATE, content=b'{"input": "x", "max_output_tokens": "1", "max_output_tokens": 1}')
    assert answer.json()["max_output_tokens"] == 1


@pytest.mark.parametrize(
    "kind", ["text/plain", "multipart/form-data", "application/x-www-form-urlencoded", "x", ""]
)
def test_a_body_that_does_not_call_itself_json_is_refused(http: httpx.Client, kind: str) -> None:
    answer = http.post(COUNT, content=b'{"input": "x"}', headers={"content-type": kind})
    contract.check_error(answer.json())
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "unsupported_content_type")


def test_a_content_type_may_have_parameters(http: httpx.Client) -> None:
    kind = {"content-type": "Application/JSON; charset=utf-8"}
    assert http.post(COUNT, content=b'{"input": "x"}', headers=kind).status_code == 200


def test_a_body_that_is_too_large_is_not_read(http: httpx.Client) -> None:
    sent = 0

    def parts() -> Iterator[bytes]:
        nonlocal sent
        while sent < 2 * MAX_BODY_BYTES:
            sent += 1 << 20
            yield b" " * (1 << 20)

    answer = http.post(CREATE, content=parts())
    assert answer.status_code == 413
    contract.check_error(answer.json())
    assert answer.json()["error"]["code"] == "request_too_large"
    assert http.post(COUNT, content=b" " * (1 << 20) + b'{"input": "x"}').status_code == 200


PATHS = {
    "NUL": "%00",
    "no UTF-8": "%ff%fe",
    "a surrogate": "%ed%a0%80",
    "10,000 characters": "r" * 10_000,
    "a slash": "a%2Fb",
    "dots": "..%2f..%2fetc%2fpasswd",
    "a quote": "'%3B%20DROP%20TABLE%20responses%3B--",
    "another alphabet": "%E2%9C%93",
    "a space": "%20",
}


@pytest.mark.parametrize(
    ("method", "below"), [("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")]
)
@pytest.mark.parametrize("name", PATHS.values(), ids=PATHS)
def test_an_id_that_cannot_be_is_a_404(http: httpx.Client, method: str, below: str, name: str) -> None:
    answer = http.request(method, f"{CREATE}/{name}{below}")
    assert answer.status_code == 404
    contract.check_error(answer.json())


QUERIES = [
    "limit=0",
    "limit=101",
    "limit=1e9",
    "limit=" + "9" * 5000,
    "limit=%D9%A1",
    "limit=",
    "limit=1&limit=2",
    "order=up",
    "after=%00",
    "after=" + "a" * 10_000,
    "include[]=everything",
    "%00=1",
    "%ff=%ff",
]


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_that_cannot_be_is_a_400(http: httpx.Client, query: str) -> None:
    answer = http.get(f"{CREATE}?{query}")
    assert answer.status_code == 400
    contract.check_error(answer.json())


@pytest.mark.parametrize("method", ["PUT", "PATCH", "TRACE", "HEAD", "OPTIONS"])
@pytest.mark.parametrize("path", [CREATE, COUNT, f"{CREATE}/a", f"{CREATE}/a/cancel", "/v1/models"])
def test_a_method_that_is_not_there_is_a_405(http: httpx.Client, method: str, path: str) -> None:
    answer = http.request(method, path)
    assert answer.status_code == 405
    if method != "HEAD":
        contract.check_error(answer.json())


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/chat/completions", "//v1/responses", f"{CREATE}/a/b"])
def test_a_path_that_is_not_there_is_a_404(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.status_code == 404
    contract.check_error(answer.json())


HEADERS = {
    "a negative length": b"content-length: -1",
    "no length": b"content-length: many",
    "two lengths": b"content-length: 3\r\ncontent-length: 4",
    "NUL": b"x: \0",
    "a long header": b"x: " + b"y" * 200_000,
    "another encoding of the transfer": b"transfer-encoding: zip",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_headers_that_cannot_be_do_no_harm(service_url: str, http: httpx.Client, header: bytes) -> None:
    address = urlsplit(service_url)
    with socket.create_connection((address.hostname, address.port), 60) as connection:
        connection.sendall(b"POST /v1/responses HTTP/1.1\r\nhost: x\r\n" + header + b"\r\n\r\n{}")
        connection.shutdown(socket.SHUT_WR)
        status = connection.recv(1 << 16).split(b"\r\n")[0]
    assert not status or status.split()[1].startswith(b"4"), status
    assert http.get("/health").status_code == 200
