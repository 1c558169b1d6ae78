"""Exact continuation for gpt-oss, whose prompts vLLM makes with the harmony library and not from a text.

vLLM turns the chat messages into harmony messages and rewrites the conversation as it likes (instructions to
the front, old analysis dropped, a tool's name from any other message): that is cheap, and done anew for the
whole conversation each turn. What costs is encoding the messages. The library encodes each on its own, as
ordinary text between special tokens, so a message that is known by its content has known ids wherever it
stands. One thing reaches across: the system message says whether there are tools. Seen in oss-harmony 0.0.11
and vLLM 0.32.0, entrypoints/openai/parser/harmony_utils.py; checked at start, see `HarmonyEncoder.refusal`.

A prompt's "text" is here its list of harmony messages: where others count characters, messages are counted,
and what is hashed is their JSON.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xxhash

from app.prefix.wire import Boundary
from app.vllm_plugin.continuation import Continuation
from app.vllm_plugin.known import Delta, Known, TokenIds

Messages = Sequence[Any]
"""Of openai_harmony.Message."""
Render = Callable[[list[Any]], list[int]]


class HarmonyChanged(Exception):
    """Rendered messages do not come apart where they should."""


class HarmonyEncoder:
    """vLLM's rendering of harmony messages, taken apart where they end.

    render: vLLM's own, of a whole conversation for completion. drop: what it leaves out first. sample: a
    conversation with every kind of message, on which that is tried.
    """

    def __init__(
        self, render: Render, drop: Callable[[list[Any]], list[Any]], sample: Messages, version: str
    ) -> None:
        self._render = render
        self.drop = drop
        self._start = render([])[0]
        whole = np.array(render(list(sample)), np.int32)
        self.definition_hash = xxhash.xxh3_128_digest(version.encode() + whole.tobytes())
        self.admissible = self._self_tested(drop(list(sample)), whole)
        """Ids of the tokens that end a message."""
        self.refusal = None if self.admissible else "harmony_self_test_failed"
        """Why these prompts cannot be continued; None when they can."""

    def changed(self) -> bool:
        """See BoundaryTokenizer.changed: the library's vocabulary is its own, and fixed."""
        return False

    def encode(self, messages: Messages) -> list[TokenIds]:
        """Ids of each message, and last those of the generation prompt. Raises HarmonyChanged, and what
        the library raises of a message that it cannot render.

        messages: with nothing among them to drop.
        """
        ids = np.array(self._render(list(messages)), dtype=np.int32)
        starts = np.flatnonzero(ids == self._start)
        if len(starts) != len(messages) + 1 or starts[0] != 0:
            raise HarmonyChanged(f"{len(messages)} harmony messages begin at {len(starts)} places")
        return np.split(ids, starts[1:])

    def _self_tested(self, sample: list[Any], whole: TokenIds) -> frozenset[int]:
        try:
            alone = [self.encode(_with_context(sample, [index]))[0] for index in range(len(sample))]
            joined = np.concatenate([*alone, *self.encode([])])
        except HarmonyChanged:
            return frozenset()
        return frozenset(int(ids[-1]) for ids in alone) if np.array_equal(joined, whole) else frozenset()


def continue_messages(encoder: HarmonyEncoder, messages: Messages, known: Known) -> Continuation:
    """Token ids of a conversation of harmony messages, with what still holds of `known`.

    messages: with nothing among them to drop. Raises what `HarmonyEncoder.encode` raises.
    """
    hashes = _message_hashes(messages)
    parts = _known_parts(known)
    new = [index for index, digest in enumerate(hashes) if digest not in parts]
    # What the new ones need beside them is encoded again, though it may be known.
    encoded = encoder.encode(_with_context(messages, new))
    parts.update(zip((hashes[index] for index in new), encoded, strict=False))
    standing = _standing(hashes, known)
    keep_tokens = known.boundaries[standing - 1].tokens if standing else 0
    after = [parts[digest] for digest in hashes[standing:]]
    boundaries = _boundaries(hashes, standing, keep_tokens, after)
    tokenized = sum(len(parts[hashes[index]]) for index in new)
    delta = Delta(
        keep_boundaries=standing,
        keep_tokens=keep_tokens,
        keep_chars=standing,
        ids=np.concatenate((*after, encoded[-1])),
        boundaries=boundaries,
        span_hashes=tuple(hashes[standing:]),
        sampled=(),
    )
    text_hash = boundaries[-1].text_hash if boundaries else _chained(hashes)[-1]
    return Continuation(delta, 0, sum(map(len, after)) - tokenized, text_hash)


def _message_hashes(messages: Messages) -> list[bytes]:
    """xxh3-128 of what a message's ids depend on: its JSON, and for a system message that of all tools."""
    tools = [m.to_json() for m in messages if _describes_tools(m)]
    return [
        xxhash.xxh3_128_digest("\0".join((m.to_json(), *(tools if _is_system(m) else ()))).encode())
        for m in messages
    ]


def _is_system(message: Any) -> bool:
    return bool(message.author.role == "system")


def _describes_tools(message: Any) -> bool:
    return any(getattr(content, "tools", None) for content in message.content)


def _with_context(messages: Messages, chosen: Sequence[int]) -> list[Any]:
    """The chosen messages, then all that their rendering depends on."""
    picked = [messages[index] for index in chosen]
    if any(map(_is_system, picked)):
        picked += [m for n, m in enumerate(messages) if _describes_tools(m) and n not in chosen]
    return picked


def _known_parts(known: Known) -> dict[bytes, TokenIds]:
    starts = [0, *(boundary.tokens for boundary in known.boundaries)]
    return {
        digest: known.ids[start : boundary.tokens]
        for digest, start, boundary in zip(known.span_hashes, starts, known.boundaries, strict=False)
    }


def _standing(hashes: Sequence[bytes], known: Known) -> int:
    """With how many of its messages the known prompt begins as this one does."""
    count = 0
    for digest, before in zip(hashes, known.span_hashes, strict=False):
        if digest != before:
            break
        count += 1
    return count


def _chained(hashes: Sequence[bytes]) -> list[str]:
    """For each message, the hash of all up to it, 32 hex digits."""
    hasher, chain = xxhash.xxh3_128(), []
    for digest in hashes:
        hasher.update(digest)
        chain.append(hasher.hexdigest())
    return chain


def _boundaries(
    hashes: Sequence[bytes], standing: int, tokens: int, after: Sequence[TokenIds]
) -> tuple[Boundary, ...]:
    chain = _chained(hashes)
    ends = tokens + np.cumsum([len(part) for part in after], dtype=int)
    counts = range(standing + 1, len(hashes) + 1)
    return tuple(Boundary(n, int(end), chain[n - 1]) for n, end in zip(counts, ends, strict=True))
