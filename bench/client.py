"""What the benchmarks ask a vLLM server, with and without the plugin, and what they time.

A turn is timed from sending its request, whose JSON was made before, to the first event that the engine's
first token brings.
"""

import http.client
import json
import time
from typing import Any, NamedTuple

from app.local.vllm import HOST
from app.prefix.wire import PROTOCOL, SECRET_HEADER

SECRET = "for-benchmarks-only"
MODEL = "bench"
SALT = "n"
"""The plugin's namespace, and `cache_salt` on vLLM's own routes: both compute the same KV blocks."""
TOKENS_PER_MESSAGE = 500
WORDS = "The river runs from the old mountain down to the wide sea, number {n}. "
BEFORE_THE_FIRST_TOKEN = ("response.created", "response.in_progress", "response.queued")

Messages = list[dict[str, Any]]
Reference = dict[str, Any]


def history(tokens: int, title: str = "") -> Messages:
    """Alternating messages of about `tokens` tokens, the last one the user's; one of more tokens and the same
    title begins with them."""
    text = "".join(WORDS.format(n=n) for n in range(TOKENS_PER_MESSAGE // 17))
    count = max(1, tokens // TOKENS_PER_MESSAGE // 2) * 2 + 1
    return [{"role": ("user", "assistant")[n % 2], "content": f"{title}{n}. {text}"} for n in range(count)]


def question(n: int) -> Messages:
    """A margin: what a turn adds to a history."""
    return [{"role": "assistant", "content": "Yes."}, {"role": "user", "content": f"Question {n}?"}]


class Answer(NamedTuple):
    """A streamed turn."""

    first_ms: float
    whole_ms: float
    text: str
    usage: dict[str, Any]
    receipt: dict[str, Any]

    @property
    def cached_tokens(self) -> int | None:
        """Of the prompt, in vLLM's prefix cache."""
        details = self.usage.get("prompt_tokens_details") or self.usage.get("input_tokens_details") or {}
        cached: int | None = details.get("cached_tokens")
        return cached


class Server:
    """A connection to a vLLM server, for one thread. `pause_s`: before each timed request."""

    def __init__(self, port: int, pause_s: float = 0.0) -> None:
        self._http = http.client.HTTPConnection(HOST, port, timeout=600)
        self._pause_s = pause_s

    def chat(self, messages: Messages, tokens: int = 1) -> Answer:
        """vLLM's own route, the whole history."""
        body = {**_chat(tokens), "messages": messages, "cache_salt": SALT}
        return self._timed("/v1/chat/completions", body)

    def prefix(
        self, messages: Messages, reference: Reference | None, tokens: int = 1, *, keep: bool = False
    ) -> Answer:
        """The plugin's route."""
        return self._timed("/prefix/v1/chat", _prefix(_chat(tokens), messages, reference, keep))

    def respond(self, text: str, previous: str) -> Answer:
        """vLLM's own Responses route, which keeps the history itself."""
        body = {**_response(text), "previous_response_id": previous, "stream": True}
        return self._timed("/v1/responses", body)

    def stored(self, messages: Messages) -> str:
        """The id of a response that vLLM keeps; of vLLM with VLLM_ENABLE_RESPONSES_API_STORE=1."""
        made: str = self.json("/v1/responses", {**_response(messages), "store": True})["id"]
        return made

    def sampled(self, messages: Messages, tokens: int) -> tuple[list[int], list[int]]:
        """Ids of the prompt and of the greedy answer, as the engine says."""
        body = {**_ids_wanted(tokens), "messages": messages, "cache_salt": SALT}
        return _ids(self.json("/v1/chat/completions", body))

    def prefix_sampled(
        self, messages: Messages, reference: Reference, tokens: int
    ) -> tuple[list[int], list[int]]:
        """As `sampled`, by the plugin's route."""
        body = _prefix(_ids_wanted(tokens), messages, reference, keep=False)
        return _ids(self.json("/prefix/v1/chat", body))

    def tokenized(self, messages: Messages) -> list[int]:
        """vLLM's full render."""
        ids: list[int] = self.json("/tokenize", {"messages": messages})["tokens"]
        return ids

    def info(self) -> dict[str, Any]:
        """What the plugin says of itself."""
        answer: dict[str, Any] = json.loads(self._request("GET", "/prefix/v1/info").read())
        return answer

    def json(self, path: str, body: dict[str, Any]) -> Any:
        """Not timed. Raises SystemExit for an error, as all calls do."""
        return json.loads(self._request("POST", path, json.dumps(body).encode()).read())

    def _request(self, method: str, path: str, encoded: bytes | None = None) -> http.client.HTTPResponse:
        headers = {"content-type": "application/json", SECRET_HEADER: SECRET}
        # A new connection each time: an idle one is closed while the other server warms up.
        self._http.close()
        self._http.request(method, path, encoded, headers)
        answer = self._http.getresponse()
        if answer.status != http.HTTPStatus.OK:
            raise SystemExit(f"{path}: {answer.status} {answer.read().decode()[:2000]}")
        return answer

    def _timed(self, path: str, body: dict[str, Any]) -> Answer:
        encoded = json.dumps(body).encode()
        first, text, usage, receipt = None, "", dict[str, Any](), dict[str, Any]()
        time.sleep(self._pause_s)
        started = time.perf_counter()
        for line in self._request("POST", path, encoded):
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if first is None and _is_of_a_token(event):
                first = time.perf_counter() - started
            text += _text(event)
            usage = event.get("usage") or (event.get("response") or {}).get("usage") or usage
            receipt = event if "ref" in event else receipt
        if first is None:
            raise SystemExit(f"{path}: an answer without a token")
        return Answer(first * 1e3, (time.perf_counter() - started) * 1e3, text, usage, receipt)


def reference_of(receipt: dict[str, Any]) -> Reference:
    """What a next turn names."""
    return {name: receipt[name] for name in ("ref", "hash", "tokens", "fingerprint")}


def _chat(tokens: int) -> dict[str, Any]:
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    return {"model": MODEL, "temperature": 0, "max_completion_tokens": tokens, "ignore_eos": True, **usage}


def _ids_wanted(tokens: int) -> dict[str, Any]:
    return {**_chat(tokens), "return_token_ids": True, "stream": False, "stream_options": None}


def _ids(completion: dict[str, Any]) -> tuple[list[int], list[int]]:
    return completion["prompt_token_ids"], completion["choices"][0]["token_ids"]


def _prefix(
    chat: dict[str, Any], messages: Messages, reference: Reference | None, keep: bool
) -> dict[str, Any]:
    return {
        "protocol": PROTOCOL,
        "namespace": SALT,
        "chat": chat,
        "messages": messages,
        "prefix": reference,
        "commit": {"ttl_s": 3600} if keep else None,
    }


def _response(given: str | Messages) -> dict[str, Any]:
    return {"model": MODEL, "input": given, "temperature": 0, "max_output_tokens": 1, "cache_salt": SALT}


def _is_of_a_token(event: dict[str, Any]) -> bool:
    kind = event.get("type", "")
    return bool(event.get("choices")) or (kind.startswith("response.") and kind not in BEFORE_THE_FIRST_TOKEN)


def _text(event: dict[str, Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in event.get("choices") or ())
