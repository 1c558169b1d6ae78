"""One vLLM server over HTTP: the plugin's route where prefixes are used, vLLM's own chat route elsewhere."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import msgspec

from app.conversation.engine import Generation, Margin, NoPlugin, PrefixMissed, Whole
from app.engine.answer import ChatAnswer
from app.engine.bodies import prefix_body, stock_body, tokenize_body
from app.engine.messages import Message, have_images
from app.engine.refusals import refused
from app.errors import ContextLengthExceeded, EngineUnavailable
from app.prefix.wire import MISS_CODES, PROTOCOL, SECRET_HEADER, PluginInfo

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

    @property
    def context_length(self) -> int:
        """See conversation.engine.Worker."""
        # An adapter has none of its own.
        return next(int(m["max_model_len"]) for m in self.models if m.get("max_model_len"))

    @asynccontextmanager
    async def answer(self, generation: Generation, prompt: Margin | Whole) -> AsyncIterator[ChatAnswer]:
        """See conversation.engine.Worker."""
        with_prefix = isinstance(prompt, Margin) or prompt.keep_s is not None
        path = "/prefix/v1/chat" if with_prefix else "/v1/chat/completions"
        body = (prefix_body if with_prefix else stock_body)(generation, prompt)
        async with self._posted(path, body, with_prefix=with_prefix) as http:
            rung: tuple[str, str | None]
            if isinstance(prompt, Whole):
                rung = ("reseed" if prompt.lost else "full", prompt.reason)
            else:
                rung = ("rewind" if prompt.rewound else "hit", prompt.rewound)
            answer = ChatAnswer(http, self.url, generation.options, *rung, prompt.keep_s)
            yield answer
            await answer.drain()

    async def count(self, generation: Generation, prompt: Margin | Whole) -> int:
        """See conversation.engine.Worker."""
        if self._refusal is None:
            try:
                return await self._counted("/prefix/v1/render", generation, prompt)
            except (ContextLengthExceeded, PrefixMissed, NoPlugin):
                if isinstance(prompt, Margin):
                    raise
        return await self._counted("/tokenize", generation, prompt)

    async def _counted(self, path: str, generation: Generation, prompt: Margin | Whole) -> int:
        with_prefix = path != "/tokenize"
        body = (prefix_body if with_prefix else tokenize_body)(generation, prompt)
        async with self._posted(path, body, with_prefix=with_prefix) as http:
            counted = msgspec.json.decode(await http.aread())
        return int(counted["tokens"] if with_prefix else counted["count"])

    @asynccontextmanager
    async def _posted(self, path: str, body: Any, *, with_prefix: bool) -> AsyncIterator[httpx.Response]:
        """with_prefix: whether `path` is the plugin's. Raises what vLLM refuses it for."""
        request = self._http.build_request(
            "POST",
            self.url + path,
            content=msgspec.json.encode(body),
            headers={"content-type": "application/json", **self._headers},
            timeout=_ANSWER_TIMEOUT,
        )
        self.running += 1
        try:
            http = await self._send(request)
            try:
                if http.status_code != 200:
                    sent = body.messages if with_prefix else body["messages"]
                    self._raise(http.status_code, await http.aread(), sent, with_prefix=with_prefix)
                yield http
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
            try:
                return await self._http.send(request, stream=True)
            except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
                # Most likely vLLM closed an idle connection just then. Nothing was answered: once more.
                return await self._http.send(request, stream=True)
        except httpx.HTTPError as exc:
            self.alive = False
            raise EngineUnavailable(f"The vLLM server cannot be reached ({type(exc).__name__}).") from exc

    def _raise(self, status: int, content: bytes, sent: list[Message], *, with_prefix: bool) -> None:
        error = _error(content)
        code = error.get("code")
        if status == 409 and code in MISS_CODES:
            raise PrefixMissed(str(code))
        if with_prefix and status in (401, 404):
            # 404 may also be an unknown model: vLLM's own route will say so.
            self._refusal = "no_plugin" if status == 404 else "plugin_refused_secret"
            raise NoPlugin(self._refusal)
        raise refused(status, error, images=have_images(sent))


def _refusal(info: httpx.Response) -> str | None:
    if info.status_code == 401:
        return "plugin_refused_secret"
    if info.status_code != 200:
        return "no_plugin"
    plugin = msgspec.json.decode(info.content, type=PluginInfo)
    return plugin.refusal if plugin.protocol == PROTOCOL else "plugin_protocol"


def _error(content: bytes) -> dict[str, Any]:
    """vLLM's error object, whatever the body is."""
    try:
        body = msgspec.json.decode(content)
    except msgspec.DecodeError:
        return {}
    error = body.get("error") if isinstance(body, dict) else None
    return error if isinstance(error, dict) else {}
