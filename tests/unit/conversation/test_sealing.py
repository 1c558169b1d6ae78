"""Sealed reasoning: only who sealed it, for whom it was sealed, can open it, and only as it was."""

import base64
import secrets

import pytest

from app.conversation.records import TenantId
from app.conversation.sealing import Sealer, Sealing
from app.errors import InvalidEncryptedContent
from app.store.memory import MemoryResponseStore

TENANT = TenantId("tenant")
KEY = secrets.token_bytes(32)


@pytest.mark.parametrize("text", ["", "thought", "a\x00b", "👩‍👩‍👧 ü \u2028", "x" * 100_000], ids=repr)
def test_it_opens_as_it_was_sealed(text: str) -> None:
    sealed = Sealer(KEY).seal(TENANT, text)
    assert Sealer(KEY).open(TENANT, sealed) == text


def test_a_sealed_text_is_url_safe_and_says_nothing() -> None:
    sealed = Sealer(KEY).seal(TENANT, "the secret thought" * 10)
    assert sealed.isascii() and sealed.replace("_", "").replace("-", "").isalnum()
    assert b"secret" not in base64.urlsafe_b64decode(sealed.split("_", 1)[1] + "==")
    assert sealed != Sealer(KEY).seal(TENANT, "the secret thought" * 10)


def refused(tenant: str, sealed: str, key: bytes = KEY) -> None:
    with pytest.raises(InvalidEncryptedContent) as error:
        Sealer(key).open(TenantId(tenant), sealed, param="input[0].encrypted_content")
    assert (error.value.status, error.value.code) == (400, "invalid_encrypted_content")
    assert error.value.param == "input[0].encrypted_content"


def test_another_tenant_and_another_key_do_not_open_it() -> None:
    sealed = Sealer(KEY).seal(TENANT, "thought")
    refused("tenant2", sealed)
    refused("", sealed)
    refused(TENANT, sealed, secrets.token_bytes(32))


def test_every_changed_character_is_noticed() -> None:
    sealed = Sealer(KEY).seal(TENANT, "thought")
    for place, character in enumerate(sealed):
        refused(TENANT, sealed[:place] + ("A" if character != "A" else "B") + sealed[place + 1 :])


def test_nothing_can_be_cut_off_or_added() -> None:
    sealed = Sealer(KEY).seal(TENANT, "thought")
    for length in range(len(sealed)):
        refused(TENANT, sealed[:length])
    for added in ("A", "=", "==", "\n", " ", "\x00", sealed):
        refused(TENANT, sealed + added)
        refused(TENANT, added + sealed)


@pytest.mark.parametrize(
    "forged", ["", "mr1_", "mr1_AAAA", "gAAAAABk", "mr1_é", "mr1_\ud800", "mr1_" + "A" * 1000], ids=repr
)
def test_forgeries(forged: str) -> None:
    refused(TENANT, forged)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_a_key_has_32_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="key"):
        Sealer(bytes(length))


def test_reasoning_items_are_sealed_and_others_left_alone() -> None:
    sealer = Sealer(KEY)
    thoughts = [{"type": "reasoning_text", "text": "so"}, {"type": "reasoning_text", "text": " then"}]
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "content": thoughts}
    sealed = sealer.sealed(TENANT, item)
    assert sealer.open(TENANT, sealed["encrypted_content"]) == "so\n then"
    assert {k: v for k, v in sealed.items() if k != "encrypted_content"} == item
    assert sealer.sealed(TENANT, sealed) == sealed
    summarised = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "so"}]}
    assert sealer.open(TENANT, sealer.sealed(TENANT, summarised)["encrypted_content"]) == "so"
    message = {"type": "message", "id": "msg_1"}
    assert sealer.sealed(TENANT, message) == message


async def test_all_services_of_a_database_have_one_sealer() -> None:
    store = MemoryResponseStore()
    one, other = Sealing(store), Sealing(store)
    sealed = (await one.sealer()).seal(TENANT, "thought")
    assert (await other.sealer()).open(TENANT, sealed) == "thought"
    assert await one.sealer() is await one.sealer()
    with pytest.raises(InvalidEncryptedContent):
        (await Sealing(MemoryResponseStore()).sealer()).open(TENANT, sealed)


async def test_a_request_passes_for_nothing_that_clients_carry() -> None:
    sealing = Sealing(MemoryResponseStore())
    sealed = (await sealing.requests()).seal(TENANT, "authorization")
    assert (await sealing.requests()).open(TENANT, sealed) == "authorization"
    for other, version in ((await sealing.sealer(), "mr1_"), (await sealing.compactions(), "mc1_")):
        for forged in (sealed, version + sealed[4:]):
            with pytest.raises(InvalidEncryptedContent):
                other.open(TENANT, forged)
