"""What is encrypted so that it cannot be read, and authenticated so that it cannot be forged, be another
tenant's, or be passed off as something else: reasoning and compactions, which clients carry and do not read,
and requests in the background, which lie in the database."""

import base64
import secrets

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from app.conversation.records import Item, ResponseStore, TenantId
from app.errors import InvalidEncryptedContent

_VERSIONS = {"reasoning": "mr1_", "compaction": "mc1_", "request": "mq1_"}
"""By what is sealed, which is also the name of its key: how it is, which stands at its beginning."""
_NONCE_BYTES = 12


class Sealer:
    """AES-256-GCM with the tenant and the version as associated data.

    Sealed: the version, then nonce, ciphertext and tag as URL-safe base64 without padding.
    """

    def __init__(self, key: bytes, version: str = _VERSIONS["reasoning"]) -> None:
        """key: 32 bytes. Raises ValueError for another length."""
        if len(key) != 32:
            raise ValueError(f"a key of {len(key)} bytes")
        self._cipher = AESGCM(key)
        self._version = version

    def seal(self, tenant: TenantId, text: str) -> str:
        """A new one at each call."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = nonce + self._cipher.encrypt(nonce, text.encode(), self._associated(tenant))
        return self._version + base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def open(self, tenant: TenantId, sealed: str, *, param: str = "encrypted_content") -> str:
        """The text. Raises InvalidEncryptedContent where it is not what `seal` gave for this tenant."""
        try:
            raw = self._unpacked(sealed)
            nonce, ciphertext = raw[:_NONCE_BYTES], raw[_NONCE_BYTES:]
            return self._cipher.decrypt(nonce, ciphertext, self._associated(tenant)).decode()
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

    def _associated(self, tenant: TenantId) -> bytes:
        return f"{self._version}{tenant}".encode()

    def _unpacked(self, sealed: str) -> bytes:
        """Raises ValueError where `seal` cannot have given it: each text has one spelling only."""
        text = sealed.removeprefix(self._version)
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        if self._version + base64.urlsafe_b64encode(raw).decode().rstrip("=") != sealed:
            raise ValueError("another spelling")
        return raw


class Sealing:
    """The database's sealers, each made when it is first asked for: a service starts before its database."""

    def __init__(self, store: ResponseStore) -> None:
        self._store = store
        self._sealers: dict[str, Sealer] = {}

    async def sealer(self) -> Sealer:
        """That of reasoning. Raises StoreUnavailable."""
        return await self._of("reasoning")

    async def compactions(self) -> Sealer:
        """That of compactions. Raises StoreUnavailable."""
        return await self._of("compaction")

    async def requests(self) -> Sealer:
        """That of requests in the background. Raises StoreUnavailable."""
        return await self._of("request")

    async def sealed(self, tenant: TenantId, items: tuple[Item, ...]) -> tuple[Item, ...]:
        """Reasoning items with their text as `encrypted_content` too. Raises StoreUnavailable."""
        if all(item["type"] != "reasoning" for item in items):
            return items
        sealer = await self.sealer()
        return tuple(sealer.sealed(tenant, item) for item in items)

    async def _of(self, what: str) -> Sealer:
        if what not in self._sealers:
            self._sealers[what] = Sealer(await self._store.key(what), _VERSIONS[what])
        return self._sealers[what]
