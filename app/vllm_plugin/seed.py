"""Seeds: a turn's own part of a prompt as bytes, for another process to be given when this one is gone.

Opaque to whoever keeps them, except that several can be joined: their concatenation is a seed of all their
prompts, which is how the rounds of one turn are kept together. A seed claims nothing that is believed: ids
are hashed, and which of them still hold is decided by the rendered text, as for a resident prompt.
"""

import logging
import zlib
from collections.abc import Iterator, Sequence

import msgspec
import numpy as np

from app.prefix import hashing
from app.prefix.wire import Boundary
from app.vllm_plugin.known import Delta, SampledSpan, TokenIds
from app.vllm_plugin.store import Node

logger = logging.getLogger("vllm.marginalia")


class _Seed(msgspec.Struct, frozen=True, array_like=True):
    """The fields of a Node that a next prompt goes on from, and which tokenizer made the ids."""

    tokenizer: bytes
    ref: bytes
    parent: bytes | None
    keep_boundaries: int
    keep_tokens: int
    keep_chars: int
    ids: bytes
    boundaries: list[tuple[int, int, bytes]]
    span_hashes: list[bytes]
    sampled: list[SampledSpan]
    hash: str
    final_chars: int
    text_chars: int
    text_hash: str
    samples: list[bytes]


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(_Seed).decode


def pack(node: Node, tokenizer: bytes) -> bytes:
    """`node` without its messages, compressed. tokenizer: hash of the definition that its ids are from."""
    seed = _Seed(
        tokenizer=tokenizer,
        ref=node.ref,
        parent=node.parent.ref if node.parent else None,
        keep_boundaries=node.delta.keep_boundaries,
        keep_tokens=node.delta.keep_tokens,
        keep_chars=node.delta.keep_chars,
        ids=_planes(node.delta.ids),
        boundaries=[(b.chars, b.tokens, bytes.fromhex(b.text_hash)) for b in node.delta.boundaries],
        span_hashes=list(node.delta.span_hashes),
        sampled=list(node.delta.sampled),
        hash=node.hash,
        final_chars=node.final_chars,
        text_chars=node.text_chars,
        text_hash=node.text_hash,
        samples=[_planes(sample) for sample in node.samples],
    )
    return zlib.compress(_pack(seed), 1)


def restore(seeds: Sequence[bytes], tokenizer: bytes) -> Node | None:
    """The newest prompt that `seeds` have all of, without messages; None if there is none, or what they
    hold is damaged."""
    try:
        found = [_unpack(part) for seed in seeds for part in _parts(seed)]
        return _newest_whole({seed.ref: seed for seed in found if seed.tokenizer == tokenizer})
    except (zlib.error, msgspec.DecodeError, ValueError) as error:
        logger.warning("Marginalia tokenizes a conversation again, its seeds are damaged: %s", error)
        return None


def _parts(seed: bytes) -> Iterator[bytes]:
    """Raises zlib.error where the last one is not whole."""
    while True:
        stream = zlib.decompressobj()
        yield stream.decompress(seed)
        if not stream.eof:
            raise zlib.error("the stream breaks off")
        if not (seed := stream.unused_data):
            return


def _newest_whole(seeds: dict[bytes, _Seed]) -> Node | None:
    nodes: dict[bytes | None, Node | None] = {None: None}
    # Parents come before their children: what has none here is not whole.
    for seed in seeds.values():
        if seed.parent in nodes:
            nodes[seed.ref] = _node(seed, nodes[seed.parent])
    newest = list(nodes.values())[-1]
    if newest is not None and hashing.ids_hash(newest.all_ids().astype("<i4").data) != newest.hash:
        raise ValueError("the token ids are not those that were hashed")
    return newest


def _node(seed: _Seed, parent: Node | None) -> Node:
    return Node(
        ref=hashing.Ref(seed.ref),
        parent=parent,
        namespace="",
        model="",
        fingerprint="",
        messages=(),
        delta=Delta(
            keep_boundaries=seed.keep_boundaries,
            keep_tokens=seed.keep_tokens,
            keep_chars=seed.keep_chars,
            ids=_ids(seed.ids),
            boundaries=tuple(Boundary(chars, tokens, text.hex()) for chars, tokens, text in seed.boundaries),
            span_hashes=tuple(seed.span_hashes),
            sampled=tuple(seed.sampled),
        ),
        hash=seed.hash,
        final_chars=seed.final_chars,
        text_chars=seed.text_chars,
        text_hash=seed.text_hash,
        samples=tuple(map(_ids, seed.samples)),
        expires_at=0.0,
    )


def _planes(ids: TokenIds) -> bytes:
    """First the lowest bytes of all ids, then the next: the upper ones are nearly all zero."""
    return np.ascontiguousarray(ids, dtype="<i4").view(np.uint8).reshape(-1, 4).T.tobytes()


def _ids(planes: bytes) -> TokenIds:
    return np.frombuffer(planes, np.uint8).reshape(4, -1).T.copy().view("<i4").reshape(-1).astype(np.int32)
