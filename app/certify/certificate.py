"""What `marginalia certify` finds out, as values; `msgspec.json.encode` makes its JSON."""

from typing import Literal

import msgspec

Kind = Literal["rewrite", "change", "note", "refusal"]
"""rewrite: old text changes although the client only adds messages, or only time passes. change: old text
changes when the client changes something else. note: what was said is not what is in the prompt.
refusal: a kind of conversation that the template does not take."""


class Finding(msgspec.Struct, frozen=True):
    """Something that the chat template does to history.

    before, after: a short excerpt of each side, around the first difference; empty for a refusal.
    rewritten: share of a typical prompt, in characters, from the first one that changes; None where
    nothing that was sent before changes.
    when: template arguments under which it was seen; empty if under all that were tried.
    """

    name: str
    kind: Kind
    sentence: str
    before: str
    after: str
    rewritten: float | None
    when: tuple[str, ...] = ()


class Unsafe(msgspec.Struct, frozen=True):
    """An added token that is no boundary."""

    token: str
    reason: str


class Boundaries(msgspec.Struct, frozen=True):
    """The tokenizer's added tokens: at the safe ones a prompt may be continued.

    in_use: those of them that a typical prompt holds.
    """

    safe: list[str]
    unsafe: list[Unsafe]
    in_use: list[str]


class Reuse(msgspec.Struct, frozen=True):
    """What the last turn of a scenario has of the turn before. Counts are tokens of its prompt.

    standing: at its start, equal to the prompt before: what vLLM's KV cache can have of that.
    known: not tokenized again; more than `standing` where a rewrite leaves parts as they were.
    refused: vLLM's words where it takes no such conversation; all counts are 0 then.
    """

    scenario: str
    path: str
    tokens: int
    standing: int
    known: int
    refused: str | None = None


class Parity(msgspec.Struct, frozen=True):
    """Random conversations, through the plugin and by full tokenization.

    turns: that were compared; `refused` ones, which vLLM takes neither way, come on top of them.
    differences: what differed, in words; the first few of `different`.
    """

    seed: int
    turns: int
    refused: int
    paths: dict[str, int]
    tokens: int
    known: int
    different: int
    differences: list[str]


class Certificate(msgspec.Struct, frozen=True):
    """The whole result.

    refusal: why nothing can be continued; there is neither reuse nor parity then.
    boundaries: None for harmony (gpt-oss), where vLLM encodes each message by itself.
    """

    model: str
    chat_template: str
    marginalia_version: str
    vllm_version: str
    refusal: str | None
    append_only: bool
    findings: list[Finding]
    boundaries: Boundaries | None
    reuse: list[Reuse]
    parity: Parity | None
    exact: bool
