"""Planning a turn: continue by reference, or render the whole conversation, and why."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.conversation.engine import Generation
from app.conversation.records import Checkpoint, Item, Parent, ResponseId


@dataclass(frozen=True, slots=True)
class Caching:
    """The request's `caching` field: whether to use and keep prefixes, and for how long (seconds)."""

    enabled: bool
    ttl_s: int


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """A validated request for one turn. `echo` holds the fields that the response repeats."""

    model: str | None
    input: tuple[Item, ...]
    instructions: str | None
    previous_response_id: ResponseId | None
    store: bool
    caching: Caching
    tools: tuple[dict[str, Any], ...]
    tool_choice: Any
    parallel_tool_calls: bool
    temperature: float | None
    top_p: float | None
    max_output_tokens: int | None
    echo: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """`checkpoint` to continue from, or None and the `reason` for a full render.

    keep: whether the turn's own prefix is to be kept for the next one.
    lost: the reason is a reference that was lost, not one that could never be used: a reseed.
    """

    checkpoint: Checkpoint | None
    reason: str | None
    keep: bool
    lost: bool = False


def plan_turn(
    request: TurnRequest,
    generation: Generation,
    parent: Parent | None,
    prefix_refusal: str | None,
    now: datetime,
) -> Plan:
    """Decide from constant-size facts; no history is needed.

    prefix_refusal: why the chosen worker cannot use references at all, if so.
    """
    if not request.caching.enabled:
        return Plan(None, "caching_disabled", keep=False)
    if prefix_refusal is not None:
        return Plan(None, prefix_refusal, keep=False)
    keep = request.store
    if parent is None:
        return Plan(None, "new_conversation", keep=keep)
    checkpoint = parent.checkpoint
    if checkpoint is None:
        return Plan(None, "parent_not_cached", keep=keep)
    if parent.response.body["model"] != generation.model:
        return Plan(None, "model_changed", keep=keep)
    # Instructions are not inherited: they are the first message of each turn's own prompt.
    if parent.response.body["instructions"] != generation.instructions:
        return Plan(None, "instructions_changed", keep=keep)
    if checkpoint.expires_at <= now:
        return Plan(None, "prefix_expired", keep=keep, lost=True)
    return Plan(checkpoint, None, keep=keep)
