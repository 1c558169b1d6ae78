"""One conversation that goes on, turn by turn, by reference where there is one."""

from dataclasses import dataclass
from typing import Any

from app.certify.offline import MODEL, Offline, Prompt, Refused
from app.certify.talk import Message
from app.certify.texts import SALT
from app.prefix.wire import PROTOCOL, Commit, PrefixChatRequest, Receipt, Reference
from app.vllm_plugin.references import PrefixMiss

_TTL_S = 3600


@dataclass(frozen=True, slots=True)
class Turn:
    """A turn that was played: what a client remembers of it."""

    messages: tuple[Message, ...] = ()
    options: dict[str, Any] | None = None
    reference: Reference | None = None
    prompt: Prompt | None = None
    receipt: Receipt | None = None


def stock_chat(options: dict[str, Any] | None) -> dict[str, Any]:
    """A chat request without its messages. Tools come without a call: no parser is at work here."""
    chosen = {"model": MODEL, "max_tokens": 1, **(options or {})}
    return {**chosen, "tool_choice": "none"} if chosen.get("tools") else chosen


async def play(
    worker: Offline, base: Turn, added: list[Message], options: dict[str, Any] | None
) -> Turn | Refused:
    """Continue `base`, as the plugin does; the ids are those of a full tokenization (policy `canonical`).
    A miss is a refusal here: the store holds everything.
    """
    messages = (*base.messages, *added)
    request = PrefixChatRequest(
        protocol=PROTOCOL,
        namespace=SALT,
        chat=stock_chat(options),
        messages=added if base.reference else list(messages),
        prefix=base.reference,
        commit=Commit(_TTL_S),
        policy="canonical",
    )
    try:
        outcome = await worker.turn(request)
    except PrefixMiss as miss:
        return Refused(miss.code, str(miss))
    if isinstance(outcome, Refused):
        return outcome
    prompt, receipt = outcome
    reference = (
        Reference(receipt.ref, receipt.hash, receipt.tokens, receipt.fingerprint) if receipt.ref else None
    )
    return Turn(messages, options, reference, prompt, receipt)
