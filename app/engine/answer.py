"""Reading one answer of vLLM: chat completion chunks, and the plugin's receipt after them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
from httpx_sse import EventSource, SSEError

from app.conversation.engine import Delta, Outcome, ToolCallDelta, Usage
from app.conversation.options import Options
from app.conversation.records import Checkpoint
from app.engine.bodies import grammar_field
from app.engine.refusals import refused
from app.engine.tools import CustomInput, custom_names
from app.errors import EngineError
from app.prefix.wire import PATH_HEADER, REASON_HEADER, RECEIPT_EVENT, SAMPLED_EVENT, Receipt

_END_PATIENCE_S = 1.0
_decode = msgspec.json.Decoder().decode
_decode_receipt = msgspec.json.Decoder(Receipt).decode


class ChatAnswer:
    """An AnswerStream over one HTTP response.

    options: what was asked of it. path, reason: what the request asked for, unless the plugin says otherwise:
    to it, a `rewind` to an older reference is a hit. keep_s: seconds that a kept prefix lives, for its
    checkpoint.
    """

    def __init__(
        self,
        http: httpx.Response,
        worker_url: str,
        options: Options,
        path: str,
        reason: str | None,
        keep_s: int | None,
    ) -> None:
        self._events = EventSource(http).aiter_sse()
        self._done = False
        self._worker_url = worker_url
        self._keep_s = keep_s
        self._custom = custom_names(options.tools)
        self._grammar = grammar_field(options)
        self._inputs: dict[int, CustomInput] = {}
        self._usage = Usage()
        self._receipt: Receipt | None = None
        self._path, self._reason = path, reason
        self._rewound = path == "rewind"
        if PATH_HEADER in http.headers:
            self._path = self._told(http.headers[PATH_HEADER])
            self._reason = http.headers.get(REASON_HEADER) or reason

    @property
    def path(self) -> str:
        return self._path

    @property
    def reason(self) -> str | None:
        return self._reason

    async def deltas(self) -> AsyncIterator[Delta]:
        finished = False
        try:
            async for event in self._events:
                if event.event == RECEIPT_EVENT:
                    self._receipt = _decode_receipt(event.data)
                elif event.event == SAMPLED_EVENT:
                    yield Delta(sampled=tuple(_decode(event.data)))
                elif event.data == "[DONE]":
                    self._done = True
                    break
                else:
                    delta = self._delta(_decode(event.data))
                    if delta.finish_reason in ("abort", "error"):
                        raise EngineError("vLLM aborted the answer.")
                    finished = finished or delta.finish_reason is not None
                    yield delta
        except (httpx.HTTPError, SSEError, msgspec.DecodeError) as exc:
            raise EngineError(f"vLLM broke off in the middle of the answer ({type(exc).__name__}).") from exc
        if not finished:
            raise EngineError("vLLM ended the answer without a finish reason.")

    async def drain(self) -> None:
        """Read what follows a whole answer: else its connection could not be used again. Never raises."""
        if self._done:
            with contextlib.suppress(httpx.HTTPError, SSEError, TimeoutError):
                async with asyncio.timeout(_END_PATIENCE_S):
                    async for _ in self._events:
                        pass

    def _delta(self, chunk: dict[str, Any]) -> Delta:
        if "error" in chunk:
            raise refused(chunk["error"].get("code") or 500, chunk["error"], self._grammar)
        if usage := chunk.get("usage"):
            self._usage = _usage(usage)
        if not chunk["choices"]:
            return Delta()
        choice = chunk["choices"][0]
        delta = choice["delta"]
        return Delta(
            text=delta.get("content") or "",
            reasoning=delta.get("reasoning") or "",
            logprobs=tuple(_logprob(token) for token in (choice.get("logprobs") or {}).get("content") or ()),
            tool_calls=tuple(self._tool_call(call) for call in delta.get("tool_calls") or ()),
            finish_reason=choice.get("finish_reason"),
        )

    def _tool_call(self, call: dict[str, Any]) -> ToolCallDelta:
        index, function = call["index"], call.get("function") or {}
        arguments = function.get("arguments") or ""
        if function.get("name") in self._custom:
            self._inputs[index] = CustomInput()
        custom = self._inputs.get(index)
        return ToolCallDelta(
            index=index,
            call_id=call.get("id"),
            name=function.get("name"),
            arguments=custom.add(arguments) if custom else arguments,
            custom=custom is not None,
        )

    @property
    def usage(self) -> Usage:
        receipt = self._receipt
        if receipt is None or receipt.cached_tokens is None:
            return self._usage
        # The engine's own count, there also where the server was started without prompt token details.
        return replace(self._usage, cached_tokens=receipt.cached_tokens)

    @property
    def outcome(self) -> Outcome:
        receipt = self._receipt
        if receipt is None:
            return Outcome(self._path, self._reason, 0, self._usage.input_tokens)
        return Outcome(
            path=self._told(receipt.path),
            reason=receipt.reason or self._reason,
            reused_tokens=receipt.reused_tokens,
            tokenized_tokens=receipt.tokenized_tokens,
            sampled_reused=receipt.sampled_reused,
            checkpoint=self._checkpoint(receipt),
            seed=receipt.seed,
            common=receipt.common,
        )

    def _told(self, path: str) -> str:
        return "rewind" if self._rewound and path == "hit" else path

    def _checkpoint(self, receipt: Receipt) -> Checkpoint | None:
        if receipt.ref is None or self._keep_s is None:
            return None
        return Checkpoint(
            ref=receipt.ref,
            prefix_hash=receipt.hash,
            token_count=receipt.tokens,
            fingerprint=receipt.fingerprint,
            proof=tuple(receipt.proof),
            worker=self._worker_url,
            expires_at=datetime.now(UTC) + timedelta(seconds=self._keep_s),
        )


def _usage(usage: dict[str, Any]) -> Usage:
    prompt = usage.get("prompt_tokens_details") or {}
    completion = usage.get("completion_tokens_details") or {}
    return Usage(
        input_tokens=usage["prompt_tokens"],
        cached_tokens=prompt.get("cached_tokens") or 0,
        cache_write_tokens=prompt.get("created_cache_tokens") or 0,
        output_tokens=usage.get("completion_tokens") or 0,
        reasoning_tokens=completion.get("reasoning_tokens") or 0,
    )


def _logprob(token: dict[str, Any]) -> dict[str, Any]:
    """As an output text's `logprobs` have it: `bytes` are never left out."""
    text = token["token"]
    named = {"token": text, "logprob": token["logprob"], "bytes": token["bytes"] or list(text.encode())}
    if "top_logprobs" not in token:
        return named
    return {**named, "top_logprobs": [_logprob(top) for top in token["top_logprobs"]]}
