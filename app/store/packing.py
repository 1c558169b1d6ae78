"""Values as columns. Proofs are bytes: 28 per boundary, where a JSON array takes about 60."""

import re
import struct
from dataclasses import replace
from typing import Any

from app.conversation.records import Checkpoint, Item, Paging
from app.prefix.wire import Boundary

_ITEM_ID = re.compile("[^\x00\ud800-\udfff]{1,256}")

_BOUNDARY = struct.Struct("!QI16s")
"""Characters, tokens, xxh3-128; network byte order."""


def pack_proof(proof: tuple[Boundary, ...]) -> bytes:
    """Raises ValueError where a hash is not 32 hex digits, struct.error where a number does not fit."""
    return b"".join(_BOUNDARY.pack(b.chars, b.tokens, _digest(b.text_hash)) for b in proof)


def unpack_proof(packed: bytes) -> tuple[Boundary, ...]:
    return tuple(
        Boundary(chars, tokens, digest.hex()) for chars, tokens, digest in _BOUNDARY.iter_unpack(packed)
    )


def checkpoint_values(checkpoint: Checkpoint) -> dict[str, Any]:
    """By the names of the columns, less those that say whose it is. Raises as `pack_proof`."""
    return {
        "ref": checkpoint.ref,
        "prefix_hash": checkpoint.prefix_hash,
        "token_count": checkpoint.token_count,
        "fingerprint": checkpoint.fingerprint,
        "proof": pack_proof(checkpoint.proof),
        "worker": checkpoint.worker,
        "expires_at": checkpoint.expires_at,
    }


def item_key(item: Item) -> str | None:
    """The id under which an item can be found; None where it has none, or one that Postgres cannot hold or
    that is too long for an index."""
    item_id = item.get("id")
    return item_id if isinstance(item_id, str) and _ITEM_ID.fullmatch(item_id) else None


def possible(any_id: str) -> bool:
    """Postgres has no U+0000 and no lone surrogates; an id of a client may."""
    return re.search("[\x00\ud800-\udfff]", any_id) is None


def possible_after(paging: Paging) -> Paging:
    """With an id that nothing has for one that nothing can have."""
    return paging if possible(paging.after or "") else replace(paging, after="")


def _digest(text_hash: str) -> bytes:
    digest = bytes.fromhex(text_hash)
    # `struct` would pad or cut it in silence, and `fromhex` takes capitals and spaces.
    if len(digest) != 16 or digest.hex() != text_hash:
        raise ValueError(f"not 32 lower-case hex digits: {text_hash!r}")
    return digest
