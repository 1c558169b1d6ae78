"""The prefix protocol on a real vLLM: info, render, chat without a stream, misses, deletion, refusals."""

import time
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest
from openai import OpenAI

from app.local.model import DEFAULT_MODEL
from app.prefix.hashing import ids_hash
from app.prefix.wire import PROTOCOL, SECRET_HEADER
from tests.e2e.stack import SECRET, ask, path, rendered_ids, unique

Call = Callable[..., httpx.Response]


@pytest.fixture
def call(vllm_url: str) -> Call:
    """Calls the plugin: call("POST", "/chat", messages=[…], …)."""

    def send(method: str, at: str, *, secret: str = SECRET, **fields: Any) -> httpx.Response:
        body = {
            "protocol": PROTOCOL,
            "namespace": "n",
            "chat": {"model": DEFAULT_MODEL, "temperature": 0, "max_completion_tokens": 4},
            "commit": {"ttl_s": 60},
            **fields,
        }
        content = {"json": body} if method == "POST" else {}
        headers = {SECRET_HEADER: secret}
        return httpx.request(method, f"{vllm_url}/prefix/v1{at}", headers=headers, timeout=120, **content)  # type: ignore[arg-type]

    return send


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": f"{text} {unique()}"}]


def reference(receipt: dict[str, Any]) -> dict[str, Any]:
    return {name: receipt[name] for name in ("ref", "hash", "tokens", "fingerprint")}


def test_a_turn_without_a_stream_has_its_receipt_in_the_object(call: Call, vllm_url: str) -> None:
    messages = user("Hello")
    answer = call("POST", "/chat", messages=messages)
    completion = answer.json()
    receipt = completion["prefix"]
    assert answer.headers["x-marginalia-path"] == receipt["path"] == "full"
    ids = rendered_ids(vllm_url, messages)
    assert receipt["hash"] == ids_hash(np.array(ids, "<i4").data)
    assert receipt["tokens"] == completion["usage"]["prompt_tokens"] == len(ids)
    # The ids that went to the engine, and the proof: each boundary is where its count of tokens ends.
    margin = [completion["choices"][0]["message"], *user("More")]
    again = call("POST", "/render?ids=true", messages=margin, prefix=reference(receipt)).json()
    assert again["path"] == "hit"
    assert again["ids"] == rendered_ids(vllm_url, [*messages, *margin])
    assert [tokens for _, tokens, _ in receipt["proof"]] == [n for n, i in enumerate(ids, 1) if i in (1, 2)]


def test_info_and_stats(call: Call) -> None:
    info = call("GET", "/info").json()
    assert (info["protocol"], info["model"], info["refusal"]) == (PROTOCOL, DEFAULT_MODEL, None)
    assert info["boundary_tokens"] > 0
    on = dict.fromkeys(("detokenizer", "block_hashes", "token_ids"), "on")
    assert info["savings"] == {**on, "staged_ids": "untested_vllm_version"}
    before = call("GET", "/stats").json()
    assert before["epoch"] == info["epoch"]
    call("POST", "/chat", messages=user("Count me"))
    call(
        "POST", "/chat", messages=user("x"), prefix={"ref": "00", "hash": "", "tokens": 1, "fingerprint": ""}
    )
    after = call("GET", "/stats").json()
    assert after["store"]["nodes"] == before["store"]["nodes"] + 1
    assert after["turns"]["full"] == before["turns"].get("full", 0) + 1
    assert after["misses"]["prefix_miss"] == before["misses"].get("prefix_miss", 0) + 1


def test_a_dropped_reference_is_a_typed_miss(call: Call) -> None:
    kept = reference(call("POST", "/chat", messages=user("Forget me")).json()["prefix"])
    assert call("DELETE", f"/{kept['ref']}").json() == {"deleted": True}
    assert call("DELETE", f"/{kept['ref']}").json() == {"deleted": False}
    missed = call("POST", "/chat", messages=user("More"), prefix=kept)
    assert (missed.status_code, missed.json()["error"]["code"]) == (409, "prefix_miss")


def test_another_tenants_reference_is_refused(call: Call) -> None:
    kept = reference(call("POST", "/chat", messages=user("Mine")).json()["prefix"])
    missed = call("POST", "/chat", messages=user("More"), prefix=kept, namespace="other")
    assert (missed.status_code, missed.json()["error"]["code"]) == (409, "namespace_mismatch")


@pytest.mark.parametrize(
    ("fields", "status", "code"),
    [
        ({"protocol": PROTOCOL + 1}, 400, "protocol"),
        ({"nonsense": 1}, 400, "invalid_request"),
        ({"messages": 3}, 400, "invalid_request"),
        ({"secret": "wrong"}, 401, "wrong_secret"),
        ({"messages": [{"role": "user", "content": {"no": "text"}}]}, 400, 400),
        ({"chat": {"model": "nope"}}, 404, 404),
        ({"chat": {"model": DEFAULT_MODEL, "temperature": "hot"}}, 400, 400),
    ],
)
def test_what_does_not_fit_is_refused(call: Call, fields: dict[str, Any], status: int, code: Any) -> None:
    answer = call("POST", "/chat", **{"messages": user("x"), **fields})
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)


def test_deleting_a_response_drops_its_prefix(client: OpenAI, call: Call) -> None:
    first = ask(client, user("Delete me")[0]["content"])
    nodes = call("GET", "/stats").json()["store"]["nodes"]
    client.responses.delete(first.id)
    assert call("GET", "/stats").json()["store"]["nodes"] == nodes - 1


def test_a_prefix_lives_as_long_as_the_request_says(client: OpenAI) -> None:
    brief = {"extra_body": {"caching": {"type": "enabled", "ttl": 1}}}
    first = ask(client, user("Be quick")[0]["content"], **brief)
    time.sleep(1.2)
    assert path(ask(client, "Still there?", first.id)) == ("reseed", "prefix_expired")
