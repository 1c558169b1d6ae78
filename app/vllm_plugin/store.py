"""The prefix store: a content-addressed tree of the prompts that this process knows.

A node is one turn's prompt and keeps only its delta over its parent, so branches share their trunk and
memory follows the margin. Invariants: a node with resident children or a running request is never
evicted; `bytes_used` is the sum of `size` over all nodes; all calls come from one thread (the event loop).
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from app.prefix.hashing import Ref
from app.prefix.wire import Boundary
from app.vllm_plugin.known import Delta, Known, SampledSpan, TokenIds, cut_spans

_NODE_OVERHEAD = 3300
"""Rough bytes of a node's own Python objects, as `python -m bench.store` measures them."""
_BOUNDARY_BYTES = 260
"""Rough bytes of a Boundary: a tuple, two ints and a string of 32 characters; and of its span's hash."""
_SAMPLES = 4
"""Answers whose ids are kept per prompt, the newest: a prompt may be asked for another answer many times."""


@dataclass(slots=True, eq=False)
class Node:
    """The prompt of one turn. Everything but the last four fields is immutable.

    `delta` is over the parent's prompt; `messages` are the canonical JSON of the messages that the turn
    added. For the rest see Known.
    """

    ref: Ref
    parent: "Node | None"
    namespace: str
    model: str
    fingerprint: str
    messages: tuple[bytes, ...]
    delta: Delta
    hash: str
    final_chars: int
    text_chars: int
    text_hash: str
    samples: tuple[TokenIds, ...]
    expires_at: float
    children: int = 0
    pins: int = 0

    @property
    def tokens(self) -> int:
        return self.delta.keep_tokens + len(self.delta.ids)

    @property
    def size(self) -> int:
        return (
            _NODE_OVERHEAD
            + self.delta.ids.nbytes
            + sum(map(len, self.messages))
            + _BOUNDARY_BYTES * len(self.delta.boundaries)
            + sum(sample.nbytes for sample in self.samples)
        )

    def path(self) -> list["Node"]:
        """From the root to this node."""
        nodes = []
        node: Node | None = self
        while node is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]

    def all_messages(self) -> list[bytes]:
        return [m for node in self.path() for m in node.messages]

    def known(self) -> Known:
        """The whole prompt."""
        boundaries: list[Boundary] = []
        span_hashes: list[bytes] = []
        sampled: list[SampledSpan] = []
        for node in self.path():
            delta = node.delta
            del boundaries[delta.keep_boundaries :]
            del span_hashes[delta.keep_boundaries :]
            if sampled and sampled[-1].end_token > delta.keep_tokens:
                sampled = cut_spans(sampled, delta.keep_tokens, delta.keep_chars)
            boundaries.extend(delta.boundaries)
            span_hashes.extend(delta.span_hashes)
            sampled.extend(delta.sampled)
        return Known(
            self.all_ids(),
            boundaries,
            span_hashes,
            sampled,
            self.final_chars,
            self.text_chars,
            self.text_hash,
            self.samples,
        )

    def all_ids(self) -> TokenIds:
        """Token ids of the whole prompt, int32, shape (tokens,)."""
        ids = np.empty(self.tokens, dtype=np.int32)
        # From the leaf up: each ancestor fills what its descendants did not replace.
        end = self.tokens
        node: Node | None = self
        while node is not None and end > 0:
            kept = node.delta.keep_tokens
            if end > kept:
                ids[kept:end] = node.delta.ids[: end - kept]
                end = kept
            node = node.parent
        return ids


class PrefixStore:
    """Nodes by reference, within a byte budget; the least recently used leaf goes first."""

    def __init__(self, budget_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.budget_bytes = budget_bytes
        self._clock = clock
        self._nodes: dict[Ref, Node] = {}
        self._idle: OrderedDict[Ref, Node] = OrderedDict()
        """Nodes without children and pins, least recently used first: what may be evicted."""
        self.bytes_used = 0
        self._evicted = 0
        self._refused = 0

    def __len__(self) -> int:
        return len(self._nodes)

    def stats(self) -> dict[str, int]:
        """`evicted` and `refused` (did not fit) count nodes since the start."""
        return {
            "nodes": len(self._nodes),
            "tokens": sum(len(node.delta.ids) for node in self._nodes.values()),
            "bytes_used": self.bytes_used,
            "bytes_budget": self.budget_bytes,
            "evicted": self._evicted,
            "refused": self._refused,
        }

    def get(self, ref: Ref) -> Node | None:
        """The resident node, expired or not."""
        return self._nodes.get(ref)

    def expired(self, node: Node) -> bool:
        return node.expires_at <= self._clock()

    @contextmanager
    def pinned(self, node: Node | None) -> Iterator[None]:
        """Keep `node` resident while a request that uses it runs."""
        if node is None:
            yield
            return
        node.pins += 1
        self._place(node)
        try:
            yield
        finally:
            node.pins -= 1
            self._place(node)

    def put(self, node: Node, ttl_s: float) -> bool:
        """Keep `node` for `ttl_s` seconds; the same content again only lives longer and gains its samples.

        Returns False, and keeps nothing, when it does not fit or its parent is gone.
        """
        expires_at = self._clock() + ttl_s
        known = self._nodes.get(node.ref)
        if known is not None:
            known.expires_at = max(known.expires_at, expires_at)
            self._add_samples(known, node.samples)
            self._place(known)
            return True
        parent_gone = node.parent is not None and self._nodes.get(node.parent.ref) is not node.parent
        with self.pinned(None if parent_gone else node.parent):
            if parent_gone or not self._make_room(node.size):
                self._refused += 1
                return False
            node.expires_at = expires_at
            self._nodes[node.ref] = node
            self.bytes_used += node.size
            if node.parent is not None:
                node.parent.children += 1
        self._place(node)
        return True

    def _add_samples(self, node: Node, samples: tuple[TokenIds, ...]) -> None:
        others = [old for old in node.samples if not any(np.array_equal(old, new) for new in samples)]
        kept = (*others, *samples)[-_SAMPLES:]
        growth = sum(s.nbytes for s in kept) - sum(s.nbytes for s in node.samples)
        with self.pinned(node):
            if growth <= 0 or self._make_room(growth):
                node.samples = kept
                self.bytes_used += growth

    def drop(self, ref: Ref) -> bool:
        """Forget a reference. It can no longer be named; its memory goes once nothing builds on it."""
        node = self._nodes.get(ref)
        if node is None:
            return False
        node.expires_at = self._clock()
        at: Node | None = node
        while at is not None and at.ref in self._idle and self.expired(at):
            self._remove(at)
            at = at.parent
        return True

    def _make_room(self, size: int) -> bool:
        if size > self.budget_bytes:
            return False
        while self.bytes_used + size > self.budget_bytes:
            if not self._idle:
                return False
            self._remove(next(iter(self._idle.values())))
            self._evicted += 1
        return True

    def _place(self, node: Node, *, recent: bool = True) -> None:
        """Put `node` among the idle ones, or take it from them, as its use says."""
        if self._nodes.get(node.ref) is not node:
            return  # Evicted while a request used it; its reference may be another node's by now.
        self._idle.pop(node.ref, None)
        if node.children == 0 and node.pins == 0:
            self._idle[node.ref] = node
            self._idle.move_to_end(node.ref, last=recent)

    def _remove(self, node: Node) -> None:
        del self._nodes[node.ref]
        del self._idle[node.ref]
        self.bytes_used -= node.size
        if node.parent is not None:
            node.parent.children -= 1
            # Used no later than its child, which was the oldest: it comes before all others.
            self._place(node.parent, recent=False)
