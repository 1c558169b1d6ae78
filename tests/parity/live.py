"""The same conversations through a running vLLM: its own `/tokenize` of the whole conversation is the oracle.

The ids are those that the engine says it was given (`return_token_ids`). The model is tiny and random, so it
answers with what nobody would write, and its answers go into the conversation.
"""

import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
from tokenizers import Tokenizer

from app.local.vllm import LocalVllm
from app.prefix.hashing import ids_hash
from app.prefix.wire import (
    PROTOCOL,
    SECRET_HEADER,
    Commit,
    PrefixChatRequest,
    Receipt,
    Reference,
    Reseed,
)
from bench import tiny
from tests.parity.conversations import Conversation, Message, Step
from tests.parity.families import Family
from tests.parity.play import BY_REFERENCE, Difference, Known, Tally, next_turn, same

MODEL = "parity"
SECRET = "for-tests-only"
MAX_TOKENS = 3
START_TIMEOUT_S = 400
NO_TOOLS = {"tool_choice": "none"}


class Live:
    """A family's vLLM server with the plugin in it; its address is `url`."""

    def __init__(self, family: Family) -> None:
        self._scratch = Path(tempfile.mkdtemp(prefix="live-"))
        directory = tiny.make(family.directory(), self._scratch / "model")
        if family.harmony:
            shutil.copy(family.directory() / "config.json", directory)
        arguments = list(tiny.LOAD_ARGS)
        if family.chat_template is not None:
            template = self._scratch / "template.jinja"
            template.write_text(family.chat_template)
            arguments += ["--chat-template", str(template)]
        self._server = LocalVllm(
            str(directory), MODEL, log_dir=self._scratch, secret=SECRET, extra_args=arguments
        )
        self.family = family
        self.url = self._server.url
        self._tokenizer: Tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self._http = httpx.Client(
            base_url=self.url,
            headers={SECRET_HEADER: SECRET},
            timeout=120,
            # vLLM closes an idle connection after 5 s, which is httpx's own limit.
            limits=httpx.Limits(keepalive_expiry=2),
            trust_env=False,
        )
        self._server.start()
        self._server.wait_ready(timeout_s=START_TIMEOUT_S)

    def close(self) -> None:
        self._http.close()
        self._server.stop()
        shutil.rmtree(self._scratch)

    def info(self) -> dict[str, Any]:
        answer: dict[str, Any] = self._http.get("/prefix/v1/info").json()
        return answer

    def drop(self, ref: str) -> None:
        self._http.delete(f"/prefix/v1/{ref}").raise_for_status()

    def turn(self, request: PrefixChatRequest) -> httpx.Response:
        return self._http.post("/prefix/v1/chat", content=msgspec.json.encode(request))

    def stock_ids(self, messages: list[Message], options: dict[str, Any]) -> list[int] | None:
        """The oracle; None where vLLM takes no such conversation."""
        if self.family.harmony:
            # `/tokenize` renders a template, which gpt-oss has not: ask what a stock turn was given.
            chat = {
                "model": MODEL,
                "max_tokens": 1,
                "return_token_ids": True,
                "messages": messages,
                **options,
            }
            answer = self._http.post(
                "/v1/chat/completions", json=chat | NO_TOOLS if "tools" in chat else chat
            )
            return answer.json()["prompt_token_ids"] if answer.is_success else None
        body = {"messages": [_renamed(message) for message in messages], **options}
        answer = self._http.post("/tokenize", json=body)
        # Chat serving refuses a prompt without tokens, which can be counted all the same.
        return answer.json()["tokens"] or None if answer.is_success else None

    def decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=False)
        return text


class LivePlayer:
    """As play.Player, which looks into the plugin: this one knows what a client knows."""

    def __init__(self, worker: Live, tally: Tally, policy: Any) -> None:
        self._worker = worker
        self._tally = tally
        self._policy = policy
        self._namespace = secrets.token_hex(8)
        """Of its own: nothing of another conversation is found in it."""
        self._known = [Known()]
        self._answers: dict[int, Message] = {}
        self._resident: set[str] = set()
        """References that were neither forgotten nor made with a time to live of 0."""
        self._sampled = False
        """Whether any prompt so far has ids as the model sampled them."""

    def play(self, step: Step) -> None:
        alternate = self._worker.family.alternating
        turn = next_turn(self._known, step, alternate=alternate, answers=self._answers)
        base = turn.parent
        if step.act == "forget" and base and base.reference is not None:
            self._worker.drop(base.reference.ref)
            self._resident.discard(base.reference.ref)
        if self._turn(turn, step.act in BY_REFERENCE, step.ttl_s):
            self._known.append(turn)

    def _turn(self, turn: Known, by_reference: bool, ttl_s: int) -> bool:
        """Whether vLLM takes such a conversation."""
        base = turn.parent
        reference = base.reference if base and by_reference else None
        request = self._request(turn, reference, ttl_s)
        answer = self._worker.turn(request)
        if answer.status_code == 409:
            code = answer.json()["error"]["code"]
            if (
                reference is None
                or reference.ref in self._resident
                or code not in ("prefix_miss", "prefix_expired")
            ):
                raise Difference(f"{code} for {reference}")
            self._tally.counts[code] += 1
            seeds = Reseed(code, list(base.seeds) if base else [])
            request = self._request(turn, None, ttl_s, seeds)
            answer = self._worker.turn(request)
        elif reference is not None and reference.ref not in self._resident:
            raise Difference("a reference was used that is forgotten or expired")
        whole = self._worker.stock_ids(list(turn.messages), turn.options)
        if whole is None or not answer.is_success:
            if whole is not None or answer.is_success or answer.status_code == 409:
                raise Difference(f"the plugin: {answer.status_code} {answer.text[:500]}; vLLM: {whole}")
            self._tally.counts["refused"] += 1
            return False
        self._compare(turn, request, answer.json(), whole, ttl_s)
        return True

    def _request(
        self, turn: Known, reference: Reference | None, ttl_s: int, reseed: Reseed | None = None
    ) -> PrefixChatRequest:
        chat = {"model": MODEL, "max_tokens": MAX_TOKENS, "return_token_ids": True, **turn.options}
        if chat.get("tools"):
            chat |= NO_TOOLS
        return PrefixChatRequest(
            protocol=PROTOCOL,
            namespace=self._namespace,
            chat=chat,
            messages=list(turn.added if reference else turn.messages),
            prefix=reference,
            reseed=reseed,
            commit=Commit(ttl_s, seed=True),
            policy=self._policy,
        )

    def _compare(
        self,
        turn: Known,
        request: PrefixChatRequest,
        completion: dict[str, Any],
        whole: list[int],
        ttl_s: int,
    ) -> None:
        receipt = msgspec.convert(completion["prefix"], Receipt)
        ids = completion["prompt_token_ids"]
        self._sampled |= receipt.sampled_reused > 0
        if ids != whole:
            if not self._sampled:
                raise Difference(f"ids: {_where(ids, whole)}")
            if self._policy != "sampled" or self._worker.decode(ids) != self._worker.decode(whole):
                raise Difference(f"text of the ids: {_where(ids, whole)}")
            self._tally.counts["as sampled"] += 1
        same("tokens", (receipt.tokens, completion["usage"]["prompt_tokens"]), (len(ids), len(ids)))
        same("hash", receipt.hash, ids_hash(np.array(ids, "<i4").tobytes()))
        continued = {"hit", "rewind"}
        expected = {"reseed"} if request.reseed else continued if request.prefix else continued | {"full"}
        if receipt.path not in expected:
            raise Difference(f"path {receipt.path}, not {expected}")
        self._tally.record(receipt)
        self._remember(turn, receipt, completion, ttl_s)

    def _remember(self, turn: Known, receipt: Receipt, completion: dict[str, Any], ttl_s: int) -> None:
        said = completion["choices"][0]["message"]
        self._answers[id(turn)] = {"role": "assistant", "content": said["content"] or ""}
        base = turn.parent
        turn.seeds = (*(base.seeds if base else ()), *([receipt.seed] if receipt.seed else []))
        if receipt.ref is None:
            return
        turn.reference = Reference(receipt.ref, receipt.hash, receipt.tokens, receipt.fingerprint)
        if ttl_s:
            self._resident.add(receipt.ref)


def play(worker: Live, tally: Tally, conversation: Conversation) -> None:
    """Raises Difference."""
    player = LivePlayer(worker, tally, conversation.policy)
    for step in conversation.steps:
        player.play(step)


def _renamed(message: Message) -> Message:
    """As vLLM's chat route takes it (ChatCompletionRequest._normalize_messages_before), its /tokenize not."""
    if "reasoning_content" not in message:
        return message
    rest = {key: value for key, value in message.items() if key != "reasoning_content"}
    return {**rest, "reasoning": message.get("reasoning") or message["reasoning_content"]}


def _where(ids: list[int], whole: list[int]) -> str:
    at = next(
        (n for n, pair in enumerate(zip(ids, whole, strict=False)) if len(set(pair)) > 1),
        min(len(ids), len(whole)),
    )
    return f"from token {at} on the plugin has {ids[at : at + 20]}, vLLM {whole[at : at + 20]}"
