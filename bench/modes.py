"""The ways to hold a conversation that are compared: what each sends, and what it makes of the answer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from bench import http, items
from bench.http import Streamed
from bench.items import Item
from bench.stack import MODEL, Stack

BEFORE_THE_FIRST_TOKEN = ("response.created", "response.in_progress", "response.queued")
COMPLETE = ("response.completed", "response.incomplete")


@dataclass(frozen=True)
class Options:
    """What is asked for beside the conversation, the same in every turn of it."""

    answer_tokens: int = 16
    tools: tuple[dict[str, Any], ...] = ()
    """As Responses tools."""


@dataclass(frozen=True)
class Point:
    """Where a conversation stands in one mode: all of its items, and what a next turn can refer to."""

    items: tuple[Item, ...] = ()
    response_id: str | None = None


@dataclass
class Answer:
    """A turn as the client saw it. Times in seconds of CLOCK_MONOTONIC."""

    streamed: Streamed
    first: float
    last: float
    """The last event that brought a part of the answer."""
    items: list[Item]
    response_id: str | None
    caching: dict[str, Any] = field(default_factory=dict)
    """What Marginalia says it did."""


class Mode:
    """One way. `service` names the process between client and vLLM, "" where there is none."""

    name: str
    service = ""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack

    def ask(self, point: Point, new: list[Item], options: Options) -> tuple[Answer, Point]:
        """One turn. Raises http.Refused."""
        answer = self.answer(point, new, options)
        return answer, Point((*point.items, *new, *answer.items), answer.response_id)

    def answer(self, point: Point, new: list[Item], options: Options) -> Answer:
        """The same, without where the conversation then stands."""
        raise NotImplementedError


class Chat(Mode):
    """Stock vLLM, /v1/chat/completions: the client keeps the history and sends all of it."""

    name = "chat"

    def answer(self, point: Point, new: list[Item], options: Options) -> Answer:
        body = self.body(point, new, options) | {"cache_salt": self.stack.salt}
        return _of_chat(http.stream(f"{self.stack.vllm.url}/v1/chat/completions", body))

    @staticmethod
    def body(point: Point, new: list[Item], options: Options) -> dict[str, Any]:
        body: dict[str, Any] = {"model": MODEL, "messages": items.messages((*point.items, *new))}
        body |= {"temperature": 0, "max_completion_tokens": options.answer_tokens, "stream": True}
        body |= {"stream_options": {"include_usage": True}}
        if options.tools:
            tools = [{k: v for k, v in tool.items() if k != "type"} for tool in options.tools]
            body["tools"] = [{"type": "function", "function": tool} for tool in tools]
        return body


class ResponsesMode(Mode):
    """A Responses server. `by_reference`: previous_response_id, else the whole history as `input`. `caching`:
    Marginalia's field; it salts vLLM's cache by itself."""

    by_reference = True
    caching: str | None = None

    def url(self) -> str:
        raise NotImplementedError

    def answer(self, point: Point, new: list[Item], options: Options) -> Answer:
        body: dict[str, Any] = {"model": MODEL, "temperature": 0, "stream": True}
        body |= {"caching": {"type": self.caching}} if self.caching else {"cache_salt": self.stack.salt}
        body["max_output_tokens"] = options.answer_tokens
        if options.tools:
            body["tools"] = list(options.tools)
        if self.by_reference:
            body |= {"input": new, "store": True}
            body |= {"previous_response_id": point.response_id} if point.response_id else {}
        else:
            body |= {"input": [*point.items, *new], "store": False}
        return _of_responses(http.stream(f"{self.url()}/v1/responses", body))


class Responses(ResponsesMode):
    """Stock vLLM, /v1/responses, the whole history as input."""

    name = "responses"
    by_reference = False

    def url(self) -> str:
        return self.stack.vllm.url


class ResponsesPrevious(Responses):
    """Stock vLLM, /v1/responses with previous_response_id: vLLM keeps the history in its memory."""

    name = "responses-previous"
    by_reference = True


class Ids(Mode):
    """Token ids kept by the client, /inference/v1/generate: nothing is rendered, all ids are sent.

    The next prompt's ids are taken from vLLM's /tokenize, outside of the timed request.
    """

    name = "ids"

    def answer(self, point: Point, new: list[Item], options: Options) -> Answer:
        chat = Chat.body(point, new, options)
        asked: dict[str, Any] = {key: chat[key] for key in ("model", "messages", "tools") if key in chat}
        ids = http.ask(f"{self.stack.vllm.url}/tokenize", asked)["tokens"]
        sampling = {"temperature": 0, "max_tokens": options.answer_tokens}
        body = {"model": MODEL, "token_ids": ids, "sampling_params": sampling, "stream": True}
        body |= {"cache_salt": self.stack.salt, "stream_options": {"include_usage": True}}
        streamed = http.stream(f"{self.stack.vllm.url}/inference/v1/generate", body)
        produced = [(at, e["choices"][0]["token_ids"]) for at, e in streamed.events if e.get("choices")]
        if not produced:
            raise http.Refused("/inference/v1/generate: an answer without a token")
        answered = {"model": MODEL, "tokens": [token for _, tokens in produced for token in tokens]}
        made = [items.assistant(http.ask(f"{self.stack.vllm.url}/detokenize", answered)["prompt"])]
        return Answer(streamed, produced[0][0], produced[-1][0], made, None)


class Agentic(ResponsesMode):
    """agentic-api in front of the same vLLM, which gets the whole history from it."""

    name = "agentic-api"
    service = "agentic"

    def url(self) -> str:
        if self.stack.agentic is None:
            raise http.Refused(self.stack.why_not)
        return self.stack.agentic.url


class MarginaliaFull(ResponsesMode):
    """Marginalia with caching disabled: it keeps the history, and vLLM gets all of it."""

    name = "marginalia-full"
    service = "marginalia"
    caching = "disabled"

    def url(self) -> str:
        return self.stack.marginalia.url


class Marginalia(MarginaliaFull):
    """Marginalia: a reference and what is new."""

    name = "marginalia"
    caching = "enabled"


ALL: dict[str, Callable[[Stack], Mode]] = {
    mode.name: mode for mode in (Chat, Responses, ResponsesPrevious, Ids, Agentic, MarginaliaFull, Marginalia)
}


def _of_chat(streamed: Streamed) -> Answer:
    parts = [(at, e["choices"][0]["delta"]) for at, e in streamed.events if e.get("choices")]
    if not parts:
        raise http.Refused(f"/v1/chat/completions: an answer without a token: {streamed.events[-1:]}")
    calls: dict[int, dict[str, str]] = {}
    for _, delta in parts:
        for part in delta.get("tool_calls") or ():
            call = calls.setdefault(part["index"], {"id": "", "name": "", "arguments": ""})
            call["id"] = call["id"] or part.get("id") or ""
            call["name"] += part["function"].get("name") or ""
            call["arguments"] += part["function"].get("arguments") or ""
    text = "".join(delta.get("content") or "" for _, delta in parts)
    reasoning = "".join(delta.get("reasoning") or "" for _, delta in parts)
    made = items.from_chat(text, reasoning, list(calls.values()))
    return Answer(streamed, parts[0][0], parts[-1][0], made, None)


def _of_responses(streamed: Streamed) -> Answer:
    final = streamed.events[-1][1] if streamed.events else {}
    if final.get("type") not in COMPLETE:
        raise http.Refused(f"/v1/responses: the stream ended with {str(final)[:300]}")
    of_tokens = [at for at, event in streamed.events if event["type"] not in BEFORE_THE_FIRST_TOKEN]
    deltas = [at for at, event in streamed.events if event["type"].endswith(".delta")]
    response = final["response"]
    last = deltas[-1] if deltas else of_tokens[0]
    return Answer(
        streamed, of_tokens[0], last, response["output"], response["id"], response.get("caching") or {}
    )
