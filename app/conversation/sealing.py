"""Reasoning that a client carries: encrypted so that it cannot be read, and authenticated so that it cannot
be forged or be another tenant's."""

import base64
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.conversation.records import Item, ResponseStore, TenantId
from app.errors import InvalidEncryptedContent

KEY_NAME = "reasoning"
_VERSION = "mr1_"
_NONCE_BYTES = 12


class Sealer:
    """AES-256-GCM with the tenant as associated data.

    Sealed: `mr1_`, then nonce, ciphertext and tag as URL-safe base64 without padding.
    """

    def __init__(self, key: bytes) -> None:
        """key: 32 bytes. Raises ValueError for another length."""
        if len(key) != 32:
            raise ValueError(f"a key of {len(key)} bytes")
        self._cipher = AESGCM(key)

    def seal(self, tenant: TenantId, text: str) -> str:
        """A new one at each call."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, text.encode(), _associated(tenant))
        return _VERSION + base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def open(self, tenant: TenantId, sealed: str, *, param: str = "encrypted_content") -> str:
        """The text. Raises InvalidEncryptedContent where it is not what `seal` gave for this tenant."""
        try:
            raw = _unpacked(sealed)
            nonce, ciphertext = raw[:_NONCE_BYTES], raw[_NONCE_BYTES:]
            return self._cipher.decrypt(nonce, ciphertext, _associated(tenant)).decode()
        except (InvalidTag, ValueError):
            message = "The encrypted content could not be verified: it was changed, or made elsewhere."
            raise InvalidEncryptedContent(message, param=param) from None

    def sealed(self, tenant: TenantId, item: Item) -> Item:
        """A reasoning item with its text as `encrypted_content`; other items as they are."""
        if item["type"] != "reasoning" or item.get("encrypted_content") is not None:
            return item
        parts = item.get("content") or item.get("summary") or ()
        text = "\n".join(part["text"] for part in parts)
        return {**item, "encrypted_content": self.seal(tenant, text)}


class Sealing:
    """The database's sealer, made when it is first asked for: a service starts before its database does."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store
        self._sealer: Sealer | None = None

    async def sealer(self) -> Sealer:
        """Raises StoreUnavailable."""
        if self._sealer is None:
            self._sealer = Sealer(await self._store.key(KEY_NAME))
        return self._sealer


def _associated(tenant: TenantId) -> bytes:
    return f"{_VERSION}{tenant}".encode()


def _unpacked(sealed: str) -> bytes:
    """Raises ValueError where `seal` cannot have given it: each text has one spelling only."""
    text = sealed.removeprefix(_VERSION)
    raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    if _VERSION + base64.urlsafe_b64encode(raw).decode().rstrip("=") != sealed:
        raise ValueError("another spelling")
    return raw
