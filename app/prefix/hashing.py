"""Hashes and content addresses, the same in the service and in the plugin.

All are xxh3-128: fast (about 20 GB/s on one core) and wide enough that an accidental collision is out of
the question. They are no defence against an attacker who can choose the text: references are therefore
namespaced by tenant and only ever accepted together with the shared secret.
"""

import hmac
from collections.abc import Iterable
from typing import NewType

import xxhash

Ref = NewType("Ref", bytes)
"""Content address of a prefix, 16 bytes; 32 hex digits on the wire."""


def _chain(seed: bytes, parts: Iterable[bytes]) -> bytes:
    # Each part is preceded by its length, so that no two lists of parts give the same bytes.
    state = xxhash.xxh3_128(seed)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()


def fingerprint(parts: Iterable[bytes]) -> str:
    """32 hex digits over everything that may change the tokens of a rendered conversation."""
    return _chain(b"fingerprint", parts).hex()


def namespace_of(secret: str, tenant: str) -> str:
    """A tenant's scope of references and of vLLM's KV cache (`cache_salt`): 64 hex digits, not guessable
    without the secret, the same after a restart."""
    return hmac.digest(secret.encode(), tenant.encode(), "sha256").hex()


def root_ref(namespace: str, fingerprint_: str) -> Ref:
    """The reference of the empty conversation of one tenant under one fingerprint."""
    return Ref(_chain(b"root", (namespace.encode(), fingerprint_.encode())))


def extend_ref(ref: Ref, messages: Iterable[bytes]) -> Ref:
    """The reference after `messages`, each as canonical JSON. Chained per message: where turns are cut
    makes no difference."""
    for message in messages:
        ref = Ref(_chain(ref, (message,)))
    return ref


def ids_hash(ids: bytes | memoryview) -> str:
    """32 hex digits over token ids given as little-endian int32."""
    return xxhash.xxh3_128_hexdigest(ids)
