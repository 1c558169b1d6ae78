"""Plays a conversation on the plugin and holds every turn against vLLM's own full render."""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np
import xxhash

from app.prefix.hashing import Ref, ids_hash
from app.prefix.wire import PROTOCOL, Boundary, Commit, PrefixChatRequest, Receipt, Reference, Reseed
from app.vllm_plugin.references import PrefixMiss
from tests.parity.conversations import Conversation, Message, Step
from tests.parity.offline import CACHED_TOKENS, MODEL, Offline, Prompt, Refused

NAMESPACE = "tenant"
CLAIMS_PER_TURN = 3
MESSAGE_ENDS = (200007, 200012)
"""Harmony's <|end|> and <|call|>."""


class Difference(AssertionError):
    """The plugin did something else than vLLM, or its receipt does not fit what it did."""


@dataclass(slots=True)
class Known:
    """A turn that was played: what a client remembers of it."""

    messages: tuple[Message, ...] = ()
    parent: "Known | None" = None
    added: tuple[Message, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    reference: Reference | None = None
    seeds: tuple[bytes, ...] = ()
    ids: tuple[int, ...] = ()
    """Of the prompt."""


BY_REFERENCE = ("continue", "again", "forget")
"""Acts that name the turn before; the others send the whole history."""


def next_turn(
    known: list[Known], step: Step, *, alternate: bool, answers: Mapping[int, Message] | None = None
) -> Known:
    """The turn that `step` makes of those that were played.

    answers: by the `id` of a turn, what the model said to it, which goes before what the step adds.
    """
    base = known[-1 - step.at % len(known)]
    added = copy.deepcopy(step.added)
    options = base.options if step.options is None else step.options
    if step.act == "again" and base.parent is not None:
        base, added = base.parent, base.added
    elif step.act == "edit" and base.messages:
        edited = list(base.messages)
        edited[step.at % len(edited)] = added[0]
        base = Known(tuple(edited), options=base.options)
    elif answers and id(base) in answers:
        added = (answers[id(base)], *added)
    if step.orderly and alternate:
        added = _alternating(base.messages, added)
    return Known((*base.messages, *added), base, added, options)


@dataclass(slots=True)
class Tally:
    """What was played, over many conversations."""

    counts: Counter[str] = field(default_factory=Counter)
    """Turns by path; `turns` in all; `refused` by vLLM itself; misses by code."""
    tokens: int = 0
    reused: int = 0
    sampled: int = 0

    def record(self, receipt: Receipt) -> None:
        self.counts["turns"] += 1
        self.counts[receipt.path] += 1
        self.tokens += receipt.tokens
        self.reused += receipt.reused_tokens
        self.sampled += receipt.sampled_reused


class Player:
    """Plays on one worker, from an empty store."""

    def __init__(self, worker: Offline, tally: Tally, conversation: Conversation) -> None:
        self._worker = worker
        self._tally = tally
        self._store = worker.empty_store(conversation.budget_bytes)
        self._policy = conversation.policy
        self._known = [Known()]

    async def play(self, step: Step, following: Step | None) -> None:
        self._worker.answer_with(self._spoken(following))
        turn = next_turn(self._known, step, alternate=self._worker.family.alternating)
        base = turn.parent
        if step.act == "forget" and base and base.reference is not None:
            self._worker.service.drop(base.reference.ref)
        other = self._known[step.at % len(self._known)]
        if await self._turn(turn, step.act in BY_REFERENCE, step.ttl_s, other):
            self._known.append(turn)

    def _spoken(self, following: Step | None) -> list[int]:
        """The next step's first words, as a model might have sampled them: in pieces of its own."""
        message = following.added[0] if following else {}
        text = message.get("content")
        if message.get("role") != "assistant" or not isinstance(text, str):
            return [1]
        thought = message.get("reasoning")
        text = f"<think>\n{thought}\n</think>\n\n{text}" if thought else text
        assert following is not None
        size = 1 + following.at
        return [i for at in range(0, len(text), size) for i in self._worker.encode(text[at : at + size])]

    async def _turn(self, turn: Known, by_reference: bool, ttl_s: int, other: Known) -> bool:
        """Whether vLLM takes such a conversation. other: the turn that it is compared with."""
        base = turn.parent
        reference = base.reference if base and by_reference else None
        request = PrefixChatRequest(
            protocol=PROTOCOL,
            namespace=NAMESPACE,
            chat={"model": MODEL, "max_tokens": 1, "tool_choice": "none", **turn.options},
            messages=list(turn.added if reference else turn.messages),
            prefix=reference,
            commit=Commit(ttl_s, seed=True),
            policy=self._policy,
            compare=other.reference and other.reference.ref,
        )
        nameable = self._expected_miss(other.reference) in (None, "fingerprint_mismatch")
        if not request.chat.get("tools"):
            del request.chat["tool_choice"]
        expected_miss = self._expected_miss(reference)
        try:
            outcome = await self._worker.turn(request)
            same("miss", None, expected_miss)
        except PrefixMiss as miss:
            same("miss", miss.code, expected_miss)
            self._tally.counts[miss.code] += 1
            reference = None
            request = PrefixChatRequest(
                protocol=PROTOCOL,
                namespace=NAMESPACE,
                chat=request.chat,
                messages=list(turn.messages),
                reseed=Reseed(miss.code, list(base.seeds) if base else []),
                commit=Commit(ttl_s, seed=True),
                policy=self._policy,
                compare=request.compare,
            )
            outcome = await self._worker.turn(request)
        stock = await self._worker.stock(
            copy.deepcopy(request.chat), copy.deepcopy(list(turn.messages)), NAMESPACE
        )
        if isinstance(outcome, Refused) or isinstance(stock, Refused):
            same("refusal", outcome, stock)
            self._tally.counts["refused"] += 1
            return False
        prompt, receipt = outcome
        same("text", prompt.text, stock.text)
        self._check_ids(prompt, stock)
        same("rest of the prompt", prompt.rest, stock.rest)
        self._check_receipt(receipt, prompt, request)
        self._check_common(receipt, prompt, other if request.compare and nameable else None)
        self._tally.record(receipt)
        turn.reference, turn.ids = self._kept(receipt, prompt), prompt.ids
        turn.seeds = (*(base.seeds if base else ()), *([receipt.seed] if receipt.seed else []))
        return True

    def _expected_miss(self, reference: Reference | None) -> str | None:
        if reference is None:
            return None
        node = self._store.get(Ref(bytes.fromhex(reference.ref)))
        if node is None:
            return "prefix_miss"
        if self._store.expired(node):
            return "prefix_expired"
        return None if node.fingerprint == reference.fingerprint else "fingerprint_mismatch"

    def _check_receipt(self, receipt: Receipt, prompt: Prompt, request: PrefixChatRequest) -> None:
        same("tokens", receipt.tokens, len(prompt.ids))
        same("hash", receipt.hash, ids_hash(np.array(prompt.ids, "<i4").tobytes()))
        same("sum of tokens", receipt.reused_tokens + receipt.tokenized_tokens, receipt.tokens)
        same("cached tokens", receipt.cached_tokens, CACHED_TOKENS)
        continued = {"hit", "rewind"}
        expected = {"reseed"} if request.reseed else continued if request.prefix else continued | {"full"}
        if receipt.path not in expected or (receipt.path == "full" and receipt.reused_tokens):
            raise Difference(f"path {receipt.path} with {receipt.reused_tokens} reused, not {expected}")

    def _check_common(self, receipt: Receipt, prompt: Prompt, other: Known | None) -> None:
        if receipt.common is None or other is None:
            same("a comparison", receipt.common is None, other is None)
            return
        same("ids in common", receipt.common.tokens, shared(prompt.ids, other.ids))
        same("reusable ids", receipt.common.reusable in range(len(other.ids) + 1), True)
        self._tally.counts["parted"] += receipt.common.tokens < receipt.common.reusable

    def _check_ids(self, prompt: Prompt, stock: Prompt) -> None:
        """Of what the model sampled, only the text must be vLLM's."""
        sampled = self._worker.sampled()
        if not sampled:
            same("ids", prompt.ids, stock.ids)
            return
        same("policy", self._policy, "sampled")
        same("text of the ids", self._worker.decode(prompt.ids), self._worker.decode(stock.ids))
        expected: list[int] = []
        position = 0
        for span in sampled:
            expected += self._worker.encode(prompt.text[position : span.first_char])
            expected += prompt.ids[span.first_token : span.end_token]
            position = span.end_char
        same("ids", prompt.ids, (*expected, *self._worker.encode(prompt.text[position:])))

    def _kept(self, receipt: Receipt, prompt: Prompt) -> Reference | None:
        """The reference that the receipt gives, after its claims are checked."""
        if receipt.ref is None:
            return None
        node = self._store.get(Ref(bytes.fromhex(receipt.ref)))
        if node is None:
            raise Difference("the receipt names a reference that is not resident")
        same("resident ids", tuple(node.all_ids().tolist()), prompt.ids)
        same("pins", node.pins, 0)
        boundaries = list(node.known().boundaries)
        same("order", boundaries, sorted(set(boundaries)))
        for boundary in [*boundaries[-1:], *boundaries[:: max(1, len(boundaries) // CLAIMS_PER_TURN)]]:
            self._check_boundary(boundary, prompt)
        return Reference(receipt.ref, receipt.hash, receipt.tokens, receipt.fingerprint)

    def _check_boundary(self, boundary: Boundary, prompt: Prompt) -> None:
        ids = prompt.ids[: boundary.tokens]
        if self._worker.family.harmony:
            same(f"messages up to {boundary}", message_ends(ids)[-1:], [len(ids)])
            same("their number", len(message_ends(ids)), boundary.chars)
            return
        text = prompt.text[: boundary.chars]
        same("text of a boundary", boundary.text_hash, xxhash.xxh3_128_hexdigest(text.encode()))
        first = self._worker.sampled()[:1]
        if not first or boundary.tokens <= first[0].first_token:
            same(f"ids up to {boundary}", tuple(self._worker.encode(text)), ids)


def shared(ids: Sequence[int], others: Sequence[int]) -> int:
    """With how many equal ids the two begin."""
    length = min(len(ids), len(others))
    differ = np.flatnonzero(np.array(ids[:length]) != np.array(others[:length]))
    return int(differ[0]) if len(differ) else length


def message_ends(ids: Sequence[int]) -> list[int]:
    """How many ids there are up to the end of each harmony message."""
    return [count for count, token in enumerate(ids, start=1) if token in MESSAGE_ENDS]


def play(worker: Offline, tally: Tally, conversation: Conversation) -> None:
    """Raises Difference."""

    async def every_step() -> None:
        player = Player(worker, tally, conversation)
        for step, following in zip_longest(conversation.steps, conversation.steps[1:]):
            await player.play(step, following)

    worker.runner.run(every_step())


def same(what: str, got: object, expected: object) -> None:
    if got != expected:
        raise Difference(f"{what}: the plugin has {got!r}, vLLM {expected!r}")


def _alternating(before: tuple[Message, ...], added: tuple[Message, ...]) -> tuple[Message, ...]:
    """`added` with the roles that a template wants that takes user and assistant in turn only."""
    turns = sum(message["role"] != "system" for message in before)
    changed = []
    for message in added:
        if message["role"] == "system" and not before and not changed:
            changed.append(message)
            continue
        role = ("user", "assistant")[turns % 2]
        changed.append({"role": role, "content": message["content"] or ""})
        turns += 1
    return tuple(changed)
