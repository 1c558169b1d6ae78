"""Planning a turn: continue by reference, or render the whole conversation, and why."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from app.conversation.engine import Generation
from app.conversation.hosted import McpServer
from app.conversation.options import Options
from app.conversation.records import Checkpoint, ConversationId, Item, Parent, ResponseId


@dataclass(frozen=True, slots=True)
class Caching:
    """Whether to use the parent's prefix, whether to keep this turn's, and for how long (seconds)."""

    enabled: bool
    ttl_s: int
    keep: bool = True


@dataclass(frozen=True, slots=True)
class TurnRequest:
    """A validated request for one turn. `echo` holds the fields that the response only repeats.

    truncate: whether the oldest items are left out where the conversation does not fit.
    generate: False prepares the prefix and answers nothing.
    compare: an earlier response, to be told how much of its prefix could be used again.
    seal_reasoning: whether reasoning items carry their text encrypted as well.
    summarise: whether reasoning is given as a summary rather than as reasoning text.
    conversation: the one whose items come before, and to which the turn is added.
    compact_at: tokens of a prompt from which on what came before is summarised first. compact: do that and
    nothing more.
    mcp: the servers whose tools are called here. max_calls: of such tools, in the whole turn.
    background: whether it is made by a job, whoever waits for it.
    """

    model: str | None
    input: tuple[Item, ...]
    previous_response_id: ResponseId | None
    store: bool
    caching: Caching
    options: Options
    echo: dict[str, Any]
    truncate: bool = False
    generate: bool = True
    compare: ResponseId | None = None
    seal_reasoning: bool = False
    summarise: bool = False
    affinity: str | None = None
    conversation: ConversationId | None = None
    compact_at: int | None = None
    compact: bool = False
    mcp: tuple[McpServer, ...] = ()
    max_calls: int | None = None
    background: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """`checkpoint` to continue from, or None and the `reason` for a full render.

    keep: whether the turn's own prefix is to be kept for the next one.
    lost: the reason is a reference that was lost, not one that could never be used: a reseed.
    rewound: why an older prefix is continued than that of the turn before.
    """

    checkpoint: Checkpoint | None
    reason: str | None
    keep: bool
    lost: bool = False
    rewound: str | None = None


def plan_turn(
    request: TurnRequest,
    generation: Generation,
    parent: Parent | None,
    prefix_refusal: str | None,
    now: datetime,
    *,
    changed: str | None = None,
    kept: bool = True,
    compacted: bool = False,
) -> Plan:
    """Decide from constant-size facts; no history is needed.

    prefix_refusal: why the chosen worker cannot use references at all, if so. changed: why the parent is not
    the last turn of the conversation. kept: whether anybody can continue the turn. compacted: whether what is
    new stands for all that came before.
    """
    if not request.caching.enabled:
        return Plan(None, "caching_disabled", keep=False)
    if prefix_refusal is not None:
        return Plan(None, prefix_refusal, keep=False)
    keep = kept and request.caching.keep
    if compacted:
        return Plan(None, "compacted", keep=keep)
    if parent is None:
        return Plan(None, changed or "new_conversation", keep=keep)
    checkpoint = parent.checkpoint
    if checkpoint is None:
        compaction = parent.output_items and parent.output_items[-1]["type"] == "compaction"
        return Plan(None, "compacted" if compaction else "parent_not_cached", keep=keep)
    if parent.response.body["model"] != generation.model:
        return Plan(None, "model_changed", keep=keep)
    # Instructions are not inherited: they are the first message of each turn's own prompt.
    if parent.response.body["instructions"] != generation.options.instructions:
        return Plan(None, "instructions_changed", keep=keep)
    if checkpoint.expires_at <= now:
        return Plan(None, "prefix_expired", keep=keep, lost=True)
    return Plan(checkpoint, None, keep=keep, rewound=changed)
