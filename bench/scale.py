"""How much is measured: minutes on any machine, or all that the harness can."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Sizes of the scenarios."""

    lengths: tuple[int, ...]
    """Histories of the growing chat, in tokens."""
    rounds: int
    answer_tokens: int
    tool_rounds: int
    chats: int
    """Short chats with one system prompt."""
    system_tokens: int
    crowds: tuple[int, ...]
    """Conversations at once."""
    crowd_tokens: int
    crowd_turns: int
    crowd_runs: int
    memory_turns: int
    """Of each conversation where the working set is larger than the KV cache."""
    depths: tuple[int, ...]
    """Turns of a conversation at which the store's cost is measured; the last is how long it gets."""
    depth_rounds: int


QUICK = Scale(
    lengths=(1_000, 16_000, 110_000),
    rounds=7,
    answer_tokens=8,
    tool_rounds=8,
    chats=3,
    system_tokens=4_000,
    crowds=(1, 8),
    crowd_tokens=8_000,
    crowd_turns=3,
    crowd_runs=2,
    memory_turns=2,
    depths=(10, 20, 100),
    depth_rounds=15,
)
GPU = Scale(
    lengths=(1_600, 16_000, 64_000, 119_000),
    rounds=9,
    answer_tokens=4,
    tool_rounds=0,
    chats=0,
    system_tokens=0,
    crowds=(12,),
    crowd_tokens=16_000,
    crowd_turns=5,
    crowd_runs=2,
    memory_turns=0,
    depths=(10, 20, 100),
    depth_rounds=20,
)
"""What a Hopper machine is lent for: ten minutes, the start of everything included."""
FULL = Scale(
    lengths=(1_000, 4_000, 16_000, 64_000, 110_000),
    rounds=11,
    answer_tokens=16,
    tool_rounds=20,
    chats=8,
    system_tokens=4_000,
    crowds=(1, 4, 16, 64),
    crowd_tokens=8_000,
    crowd_turns=3,
    crowd_runs=2,
    memory_turns=5,
    depths=(10, 20, 100, 1_000),
    depth_rounds=25,
)
