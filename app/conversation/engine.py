"""The port to the engine: what a turn asks of vLLM, and what comes back."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from app.conversation.options import Options
from app.conversation.records import Checkpoint, Item, Segment
from app.prefix.wire import Common, Policy


class PrefixMissed(Exception):
    """A worker could not use the reference; nothing was sampled. `code` is one of wire.MISS_CODES."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class NoPlugin(Exception):
    """A worker turned out to have no usable plugin; nothing was sampled. `reason` says what is missing."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Generation:
    """What one turn asks of a worker, whatever way its prompt takes."""

    model: str
    options: Options
    namespace: str
    """Scope of references and of the engine's KV cache: one tenant's."""
    policy: Policy
    keep_ids: bool
    """Whether the turn's token ids are asked for, where its prefix is kept."""
    compare: str | None = None
    """Reference of an earlier prompt, to be told how much this turn's has in common with it."""
    said: tuple[int, ...] | None = None
    """Ids of the tokens with which the answer begins, sampled before. Unless None, its deltas have them, too,
    where the worker can go on from them; else it begins anew, and they have none."""


@dataclass(frozen=True, slots=True)
class Margin:
    """Continue a resident prefix: the parent's output and the new input, nothing older.

    keep_s: seconds to keep the turn's own prompt under a new reference; None keeps nothing.
    rewound: why it is an older prefix than that of the turn before (path `rewind`), if so.
    """

    checkpoint: Checkpoint
    parent_output: tuple[Item, ...]
    new_input: tuple[Item, ...]
    keep_s: int | None
    rewound: str | None = None


@dataclass(frozen=True, slots=True)
class Whole:
    """Render the whole conversation, and why.

    keep_s: as in Margin; with None vLLM's own chat route does.
    lost: a reference was lost (path `reseed`), rather than never usable (path `full`).
    seeds: what is left of the lost token ids, oldest first: earlier outcomes' `seed`.
    """

    history: tuple[Segment, ...]
    new_input: tuple[Item, ...]
    keep_s: int | None
    reason: str
    lost: bool = False
    seeds: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """Part of one tool call; `call_id` and `name` come with its first part.

    arguments: of a function, JSON; of a custom tool, its input as it is.
    """

    index: int
    call_id: str | None
    name: str | None
    arguments: str
    custom: bool = False


@dataclass(frozen=True, slots=True)
class Delta:
    """One step of the answer.

    logprobs: of the step's tokens, in the shape of an output text's `logprobs`. sampled: ids of tokens that
    the text which comes next may be of, where `Generation.said` asks for them.
    """

    text: str = ""
    reasoning: str = ""
    logprobs: tuple[dict[str, Any], ...] = ()
    tool_calls: tuple[ToolCallDelta, ...] = ()
    finish_reason: str | None = None
    sampled: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts as vLLM made them."""

    input_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of the prefix. `checkpoint` is None when the worker kept nothing.

    sampled_reused: how many ids are now in a prompt as the model sampled them, for the first time.
    seed: the prompt's own token ids, packed, where they were asked for and kept. Several joined are one.
    common: how the prompt compares with `Generation.compare`, where that could be said.
    """

    path: str
    reason: str | None
    reused_tokens: int
    tokenized_tokens: int
    sampled_reused: int = 0
    checkpoint: Checkpoint | None = None
    seed: bytes | None = None
    common: Common | None = None


class AnswerStream(Protocol):
    """An answer on its way. Iterate `deltas()` to its end, then read `usage` and `outcome`."""

    @property
    def path(self) -> str: ...

    @property
    def reason(self) -> str | None: ...

    def deltas(self) -> AsyncIterator[Delta]:
        """The answer; its last delta has the finish reason. Raises EngineError when vLLM breaks off."""

    @property
    def usage(self) -> Usage: ...

    @property
    def outcome(self) -> Outcome: ...


class Worker(Protocol):
    """One vLLM server."""

    @property
    def prefix_refusal(self) -> str | None:
        """Why references cannot be used there (`no_plugin`, …); None when they can."""

    @property
    def context_length(self) -> int:
        """How many tokens a prompt and its answer may have together."""

    async def count(self, generation: Generation, prompt: Margin | Whole) -> int:
        """Tokens of the prompt that `answer` would send to the engine. Raises as `answer` does."""

    def answer(
        self, generation: Generation, prompt: Margin | Whole
    ) -> AbstractAsyncContextManager[AnswerStream]:
        """Start generating; leaving the context early aborts the generation in vLLM.

        Raises, before anything is sampled, PrefixMissed or NoPlugin, or InvalidRequest when vLLM refuses
        the request; EngineError otherwise.
        """


class Engine(Protocol):
    """The pool of workers."""

    async def pick(
        self, model: str | None, prefer: str | None = None, affinity: str | None = None
    ) -> tuple[Worker, str]:
        """A live worker for `model`, and the model's name there.

        prefer: URL of the one to take if it can be. affinity: calls with the same word get the same worker,
        as far as can be. Raises ModelNotFound, EngineUnavailable.
        """

    async def forget(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Drop what workers hold for deleted turns, as far as they can be reached."""

    def models(self) -> list[dict[str, Any]]:
        """Every model that a live worker serves, once, as OpenAI describes one."""

    async def ping(self) -> None:
        """Raises EngineUnavailable when no worker can be reached."""
