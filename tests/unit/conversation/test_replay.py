"""A log that several attempts wrote reads like one answer, wherever they broke off."""

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.conversation.engine import Delta, ToolCallDelta
from app.conversation.events import EventAssembler
from app.conversation.output import Event
from app.conversation.records import Item
from app.conversation.replay import Contradicted, Replay, calls_tools

BODY = {"id": "resp_1", "status": "completed"}
CREATED: list[Event] = [
    {"type": kind, "sequence_number": number, "response": {**BODY, "output": []}}
    for number, kind in enumerate(("response.created", "response.queued"))
]
Piece = tuple[str, str]
"""`reasoning`, `text`, or a call's index, and one character of it."""

THOUGHT: list[Piece] = [("reasoning", c) for c in "Let me see."]
WORDS: list[Piece] = [("text", c) for c in "The answer is é, \N{CHERRIES} and more."]
CALLS: list[Piece] = [("0", c) for c in '{"step": 1}'] + [("1", c) for c in '{"step": 22}']


def delta_of(kind: str, text: str) -> Delta:
    if kind == "reasoning":
        return Delta(reasoning=text)
    if kind == "text":
        return Delta(text=text, logprobs=tuple(token(c) for c in text))
    return Delta(tool_calls=(ToolCallDelta(int(kind), None, "lookup", text),))


def token(text: str) -> dict[str, Any]:
    return {"token": text, "logprob": -0.5, "bytes": list(text.encode()), "top_logprobs": []}


def events_of(pieces: Sequence[Piece], begun: Sequence[Item], chunks: Iterable[int]) -> list[Event]:
    """The events of an answer whose deltas have those lengths; the last is as long as it takes."""
    assembler = EventAssembler(dict(BODY), begun=begun)
    events, sizes, place = assembler.start(), iter(chunks), 0
    while place < len(pieces):
        kind, end = pieces[place][0], place + next(sizes, len(pieces))
        text = ""
        while place < min(end, len(pieces)) and pieces[place][0] == kind:
            text += pieces[place][1]
            place += 1
        events += assembler.add(delta_of(kind, text))
    return events + assembler.end("completed")


def joined(log: Sequence[Event]) -> list[Event]:
    """What readers make of a log: deltas in a row are one, and ids stand for places."""
    assert [event["sequence_number"] for event in log] == list(range(len(log)))
    names: dict[str, str] = {}
    read: list[Event] = []
    for event in _named(copy.deepcopy([*log]), names):
        del event["sequence_number"]
        if "delta" in event and read and _but_text(read[-1]) == _but_text(event):
            read[-1]["delta"] += event["delta"]
            read[-1]["logprobs"] = read[-1].get("logprobs", []) + event.get("logprobs", [])
        else:
            read.append(event | ({"logprobs": event.get("logprobs", [])} if "delta" in event else {}))
    return read


def _named(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            name: names.setdefault(part, f"id {len(names)}")
            if name in ("id", "item_id", "call_id") and isinstance(part, str)
            else _named(part, names)
            for name, part in value.items()
        }
    return [_named(part, names) for part in value] if isinstance(value, list) else value


def _but_text(event: Event) -> Event:
    return {name: part for name, part in event.items() if name not in ("delta", "logprobs")}


def uninterrupted(pieces: Sequence[Piece]) -> list[Event]:
    return [*CREATED, *Replay(CREATED).add(events_of(pieces, (), ()))]


answers = st.lists(st.sampled_from([THOUGHT, WORDS, CALLS]), min_size=1, max_size=3).map(
    # vLLM does not go back to a call, nor begin its numbers anew.
    lambda parts: [
        p for n, part in enumerate(parts) for p in part if part is not CALLS or CALLS not in parts[:n]
    ]
)
chunkings = st.lists(st.integers(1, 9), max_size=40)


@given(answers, st.lists(st.tuples(chunkings, st.integers(0, 60)), max_size=3), chunkings)
def test_attempts_join_to_one_answer(
    pieces: list[Piece], broken: list[tuple[list[int], int]], last: list[int]
) -> None:
    log = [*CREATED]
    for chunks, written in broken:
        replay = Replay(log)
        log += replay.add(events_of(pieces, replay.items, chunks))[:written]
    replay = Replay(log)
    log += replay.add(events_of(pieces, replay.items, last))
    replay.end()
    assert joined(log) == joined(uninterrupted(pieces))


@given(answers, chunkings, st.integers(0, 60), st.integers(0, 200), chunkings)
def test_another_answer_is_never_told(
    pieces: list[Piece], chunks: list[int], written: int, place: int, last: list[int]
) -> None:
    """What was read is a beginning of what is there in the end, or the repetition is refused."""
    log = [*CREATED, *Replay(CREATED).add(events_of(pieces, (), chunks))[:written]]
    kind, _ = pieces[place % len(pieces)]
    other = [*pieces]
    other[place % len(pieces)] = (kind, "#")
    replay = Replay(log)
    try:
        log += replay.add(events_of(other, replay.items, last))
        replay.end()
    except Contradicted:
        return
    assert joined(log) == joined(uninterrupted(other))


def test_an_answer_that_ends_before_what_was_read_is_refused() -> None:
    log = [*CREATED, *Replay(CREATED).add(events_of(WORDS, (), ()))[:4]]
    replay = Replay(log)
    with pytest.raises(Contradicted):
        replay.add(events_of(WORDS[:5], replay.items, ()))


def test_an_answer_that_breaks_off_before_what_was_read_is_refused() -> None:
    log = [*CREATED, *Replay(CREATED).add(events_of(WORDS, (), [4] * 9))]
    replay = Replay(log)
    assert replay.add(events_of(WORDS, replay.items, [4] * 9)[:6]) == []
    with pytest.raises(Contradicted):
        replay.end()


def test_sealed_reasoning_is_the_same_whatever_its_nonce() -> None:
    def sealed(nonce: str) -> list[Event]:
        item = {"id": "rs_1", "type": "reasoning", "encrypted_content": nonce}
        return [{"type": "response.output_item.done", "output_index": 0, "item": item}]

    log = [*CREATED, *Replay(CREATED).add(sealed("a"))]
    assert Replay(log).add(sealed("b")) == []


def test_log_probabilities_that_came_late_are_told_with_what_follows() -> None:
    def delta(text: str, tokens: str) -> Event:
        place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
        logprobs = [{"token": c, "logprob": -1.0, "top_logprobs": []} for c in tokens]
        return {"type": "response.output_text.delta", **place, "delta": text, "logprobs": logprobs}

    log = [*CREATED, *Replay(CREATED).add([delta("a", "a")])]
    (rest,) = Replay(log).add([delta("a", "ab"), delta("cd", "cd")])
    assert (rest["delta"], [t["token"] for t in rest["logprobs"]]) == ("cd", ["b", "c", "d"])
    (rest,) = Replay([*CREATED, *Replay(CREATED).add([delta("a", "ab")])]).add(
        [delta("a", "a"), delta("c", "bc")]
    )
    assert (rest["delta"], [t["token"] for t in rest["logprobs"]]) == ("c", ["c"])


@pytest.mark.parametrize(
    ("kind", "called"), [("mcp_call", True), ("function_call", False), ("message", False)]
)
def test_calls_that_are_made_here_are_told_from_others(kind: str, called: bool) -> None:
    added = {"type": "response.output_item.added", "output_index": 0, "item": {"type": kind, "id": "x"}}
    assert calls_tools([*CREATED, added]) is called
