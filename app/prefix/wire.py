"""Messages between the service and the plugin inside vLLM: protocol 3, in one place.

Both processes import this file; a change that the other side would not understand raises PROTOCOL. Requests
refuse what they do not know, so a field more in them is such a change; one more in an answer is none.
Since 2: `compare`, answered by `common`. Since 3: `said`, answered by SAMPLED_EVENT.
"""

from typing import Annotated, Any, Literal, NamedTuple

import msgspec

PROTOCOL = 3
SECRET_HEADER = "x-marginalia-secret"
PATH_HEADER = "x-marginalia-path"
REASON_HEADER = "x-marginalia-reason"
"""What a turn does with its prefix, told in the headers: the receipt comes only after the answer."""
RECEIPT_EVENT = "prefix"
"""Name of the SSE event, and of the JSON field, that carries the receipt."""
SAMPLED_EVENT = "sampled"
"""Name of the SSE event with the ids of tokens, a JSON list, that the text after it may be of."""


Policy = Literal["sampled", "canonical"]
"""Ids of the model's own words: those that it sampled, where the text agrees, or those of their text."""


class Boundary(NamedTuple):
    """A safe boundary: the prompt splits here for certain.

    chars: length of the rendered text up to and including the boundary token, in code points.
    tokens: number of token ids up to and including it.
    text_hash: xxh3-128 of that text's UTF-8, 32 hex digits.
    """

    chars: int
    tokens: int
    text_hash: str


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names a resident prefix, with what must agree before it may be used."""

    ref: str
    hash: str
    tokens: int
    fingerprint: str


class Reseed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Marks a request that sends the history again because a reference was lost.

    seeds: what earlier receipts of this conversation carried in `seed`, oldest first; gaps do no harm.
    """

    reason: str
    seeds: list[bytes] = []


class Commit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Asks for the prompt to be kept under a reference for `ttl_s` seconds; with `seed`, for its receipt to
    carry the turn's own token ids, so that another process can be given them."""

    ttl_s: int
    seed: bool = False


class PrefixChatRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /prefix/v1/chat`."""

    protocol: int
    namespace: str
    chat: dict[str, Any]
    """A stock vLLM ChatCompletionRequest without `messages`."""
    messages: list[dict[str, Any]]
    """The margin where `prefix` is set, else the whole history."""
    prefix: Reference | None = None
    reseed: Reseed | None = None
    commit: Commit | None = None
    policy: Policy = "sampled"
    compare: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")] | None = None
    """Reference of another prompt, for the receipt to say in `common` how far this turn's is the same."""
    said: list[int] | None = None
    """Asks to be told the ids that a stream samples, and for an answer that begins with these, sampled
    before. Neither is done where one could not be taken up as it was left: with a seed, a grammar, penalties.
    """


class PluginInfo(msgspec.Struct, frozen=True):
    """Answer of `GET /prefix/v1/info`."""

    protocol: int
    version: str
    """Of the marginalia package."""
    vllm_version: str
    epoch: str
    model: str
    max_model_len: int
    store_bytes: int
    """Budget of the prefix store."""
    boundary_tokens: int
    """How many added tokens of the tokenizer are safe boundaries."""
    refusal: str | None
    """Why this process tokenizes every turn in full, if it does."""
    savings: dict[str, str]
    """What vLLM's engine is spared: `on`, or why vLLM's own way was left alone."""


class RenderAnswer(msgspec.Struct, frozen=True):
    """Answer of `POST /prefix/v1/render`: what a turn would send to the engine, without generating."""

    tokens: int
    hash: str
    path: str
    reused_tokens: int
    ids: list[int] | None = None
    """The prompt's token ids, with `?ids=true`."""


class Worker(msgspec.Struct, frozen=True):
    """Which process holds a reference: `epoch` is new at each start."""

    id: str
    epoch: str


class Common(msgspec.Struct, frozen=True):
    """How far a turn's prompt is the same as the one that it was compared with. Counts are token ids."""

    tokens: int
    """With how many equal ids the two begin, whatever the engine holds of them."""
    reusable: int
    """How many of the compared prompt's a later one may begin with: all but its generation prompt's."""


class Receipt(msgspec.Struct, frozen=True):
    """What the plugin did with a turn. Counts are tokens, times milliseconds."""

    ref: str | None
    """None when nothing was kept."""
    hash: str
    """xxh3-128 of the prompt's token ids as little-endian int32, 32 hex digits."""
    tokens: int
    fingerprint: str
    proof: list[Boundary]
    """Boundaries that this turn added; empty when nothing was kept."""
    path: str
    reason: str | None
    reused_tokens: int
    tokenized_tokens: int
    cached_tokens: int | None
    render_ms: float
    tokenize_ms: float
    worker: Worker
    sampled_reused: int = 0
    """How many of the ids are, for the first time in a prompt, those that the model sampled."""
    seed: bytes | None = None
    """The turn's own token ids with all that proves them, for `Reseed`: opaque, compressed, of the margin's
    size. None when nothing was kept or it was not asked for."""
    common: Common | None = None
    """With what `compare` names. None when it names nothing that is resident, in this namespace and not
    expired; or when vLLM made this turn's ids itself."""


MISS_CODES = frozenset(
    {
        "prefix_miss",
        "prefix_expired",
        "fingerprint_mismatch",
        "hash_mismatch",
        "namespace_mismatch",
        "not_continuable",
        "quarantined",
    }
)
"""Typed misses, HTTP 409, always before anything is sampled."""
