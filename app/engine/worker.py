"""One vLLM server over HTTP: the plugin's route where prefixes are used, vLLM's own chat route elsewhere."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec

from app.conversation.engine import Generation, Margin, NoPlugin, PrefixMissed, Whole
from app.engine import messages
from app.engine.answer import ChatAnswer
from app.errors import ContextLengthExceeded, EngineError, EngineUnavailable, InvalidRequest, ModelNotFound
from app.prefix.wire import (
    MISS_CODES,
    PROTOCOL,
    SECRET_HEADER,
    Commit,
    PluginInfo,
    PrefixChatRequest,
    Reference,
    Reseed,
)

_TIMEOUT = httpx.Timeout(10.0, connect=3.0)
_ANSWER_TIMEOUT = httpx.Timeout(600.0, connect=3.0)
"""Between two chunks: a long prompt without KV needs seconds on a GPU, minutes on a CPU."""


class VllmWorker:
    """A vLLM server at `url`. `refresh()` learns what it serves; `alive` is what the last contact said."""

    def __init__(self, url: str, secret: str | None, http: httpx.AsyncClient) -> None:
        self.url = url
        self.alive = False
        self.running = 0
        """Turns in flight."""
        self.models: tuple[dict[str, Any], ...] = ()
        self._refusal: str | None = "no_plugin"
        self._http = http
        self._headers = {SECRET_HEADER: secret} if secret else {}

    @property
    def prefix_refusal(self) -> str | None:
        return self._refusal

    async def refresh(self) -> None:
        """Ask what the server has. Never raises; `alive` says how it went."""
        try:
            models = await self._http.get(f"{self.url}/v1/models", timeout=_TIMEOUT)
            models.raise_for_status()
            self.models = tuple(models.json()["data"])
            info = await self._http.get(f"{self.url}/prefix/v1/info", headers=self._headers, timeout=_TIMEOUT)
            self._refusal = _refusal(info)
            self.alive = True
        except (httpx.HTTPError, ValueError, KeyError):
            self.alive = False

    @asynccontextmanager
    async def answer(self, generation: Generation, prompt: Margin | Whole) -> AsyncIterator[ChatAnswer]:
        """See conversation.engine.Worker."""
        body: PrefixChatRequest | dict[str, Any]
        if isinstance(prompt, Margin) or prompt.keep_s is not None:
            path, body = "/prefix/v1/chat", _prefix_body(generation, prompt)
        else:
            path, body = "/v1/chat/completions", _stock_body(generation, prompt)
        self.running += 1
        try:
            request = self._http.build_request(
                "POST",
                self.url + path,
                content=msgspec.json.encode(body),
                headers={"content-type": "application/json", **self._headers},
                timeout=_ANSWER_TIMEOUT,
            )
            http = await self._send(request)
            try:
                if http.status_code != 200:
                    self._raise(
                        http.status_code, await http.aread(), with_prefix=isinstance(body, PrefixChatRequest)
                    )
                yield self._reading(http, prompt)
            finally:
                await http.aclose()
        finally:
            self.running -= 1

    async def forget(self, ref: str) -> None:
        """Drop a reference. Never raises: what is not dropped now expires."""
        try:
            await self._http.delete(f"{self.url}/prefix/v1/{ref}", headers=self._headers, timeout=_TIMEOUT)
        except httpx.HTTPError:
            self.alive = False

    async def _send(self, request: httpx.Request) -> httpx.Response:
        try:
            return await self._http.send(request, stream=True)
        except httpx.HTTPError as exc:
            self.alive = False
            raise EngineUnavailable(f"The vLLM server cannot be reached ({type(exc).__name__}).") from exc

    def _reading(self, http: httpx.Response, prompt: Margin | Whole) -> ChatAnswer:
        if isinstance(prompt, Margin):
            return ChatAnswer(http, self.url, "hit", None, prompt.keep_s)
        return ChatAnswer(http, self.url, "reseed" if prompt.lost else "full", prompt.reason, prompt.keep_s)

    def _raise(self, status: int, content: bytes, *, with_prefix: bool) -> None:
        error = _error(content)
        message = _message(error, status)
        code = error.get("code")
        if status == 409 and code in MISS_CODES:
            raise PrefixMissed(str(code))
        if with_prefix and status in (401, 404):
            # 404 may also be an unknown model: vLLM's own route will say so.
            self._refusal = "no_plugin" if status == 404 else "plugin_refused_secret"
            raise NoPlugin(self._refusal)
        if status == 404:
            raise ModelNotFound(message, param="model")
        if status == 400 and "maximum context length" in message:
            raise ContextLengthExceeded(message, param="input")
        if status in (400, 422):
            raise InvalidRequest(message, param=_PARAMS.get(str(error.get("param"))))
        raise EngineError(f"vLLM answered {status}: {message}")


_PARAMS = {
    "max_completion_tokens": "max_output_tokens",
    "messages": "input",
    **{name: name for name in ("temperature", "top_p", "tools", "tool_choice", "model")},
}
"""vLLM's names of request fields, and ours."""


def _refusal(info: httpx.Response) -> str | None:
    if info.status_code == 401:
        return "plugin_refused_secret"
    if info.status_code != 200:
        return "no_plugin"
    plugin = msgspec.json.decode(info.content, type=PluginInfo)
    return plugin.refusal if plugin.protocol == PROTOCOL else "plugin_protocol"


def _chat(generation: Generation) -> dict[str, Any]:
    """Fields of a chat completion request, less messages; None leaves a field to vLLM."""
    chat: dict[str, Any] = {
        "model": generation.model,
        "temperature": generation.temperature,
        "top_p": generation.top_p,
        "max_completion_tokens": generation.max_output_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if generation.tools:
        chat["tools"] = messages.chat_tools(generation.tools)
        chat["tool_choice"] = messages.chat_tool_choice(generation.tool_choice)
        chat["parallel_tool_calls"] = generation.parallel_tool_calls
    return {name: value for name, value in chat.items() if value is not None}


def _stock_body(generation: Generation, prompt: Whole) -> dict[str, Any]:
    history = messages.whole(generation.instructions, prompt.history, prompt.new_input)
    return {**_chat(generation), "messages": history, "cache_salt": generation.namespace}


def _prefix_body(generation: Generation, prompt: Margin | Whole) -> PrefixChatRequest:
    keep = Commit(prompt.keep_s, seed=generation.keep_ids) if prompt.keep_s is not None else None
    if isinstance(prompt, Margin):
        at = prompt.checkpoint
        return PrefixChatRequest(
            protocol=PROTOCOL,
            namespace=generation.namespace,
            chat=_chat(generation),
            messages=messages.margin(prompt.parent_output, prompt.new_input),
            prefix=Reference(at.ref, at.prefix_hash, at.token_count, at.fingerprint),
            commit=keep,
            policy=generation.policy,
        )
    return PrefixChatRequest(
        protocol=PROTOCOL,
        namespace=generation.namespace,
        chat=_chat(generation),
        messages=messages.whole(generation.instructions, prompt.history, prompt.new_input),
        reseed=Reseed(prompt.reason, list(prompt.seeds)) if prompt.lost else None,
        commit=keep,
        policy=generation.policy,
    )


def _message(error: dict[str, Any], status: int) -> str:
    """vLLM's message, with the field under the name that the client knows."""
    message = str(error.get("message", f"vLLM answered {status}.")).split(" (parameter=")[0]
    return message.replace("max_completion_tokens", "max_output_tokens")


def _error(content: bytes) -> dict[str, Any]:
    """vLLM's error object, whatever the body is."""
    try:
        body = msgspec.json.decode(content)
    except msgspec.DecodeError:
        return {}
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}
