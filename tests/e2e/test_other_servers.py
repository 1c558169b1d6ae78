"""vLLM servers that differ: a template that rewrites history, and no plugin at all."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
from openai import OpenAI

from app.conversation.records import Checkpoint, Segment
from app.engine import messages
from app.local.vllm import LocalVllm
from app.prefix.hashing import ids_hash
from tests.e2e.stack import ask, path, rendered_ids

StartVllm = Callable[..., LocalVllm]
ReadCheckpoint = Callable[[str], Awaitable[Checkpoint | None]]


def tool_round(question: str) -> list[dict[str, Any]]:
    return [
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": question}]},
        {
            "type": "reasoning",
            "summary": [],
            "content": [{"type": "reasoning_text", "text": "I had better look this up. " * 5}],
        },
        {"type": "function_call", "call_id": "c1", "name": "look_up", "arguments": '{"q": "rivers"}'},
        {
            "type": "function_call_output",
            "call_id": "c1",
            "output": [{"type": "input_text", "text": "Rhine, Elbe"}],
        },
    ]


async def test_dropped_reasoning_is_a_rewind_with_parity(
    start_vllm: StartVllm, client_for: Callable[[str], OpenAI], checkpoints: ReadCheckpoint
) -> None:
    template = Path(__file__).parent / "drops_reasoning.jinja"
    vllm = start_vllm("rewriting", ["--chat-template", str(template)])
    client = client_for(vllm.url)
    asked: list[Any] = [tool_round("Which rivers are there?"), "And lakes?", "Thank you."]

    answers, in_full, segments = [], [], []
    for question in asked:
        answers.append(ask(client, question, answers[-1].id if answers else None))
        disabled = {"extra_body": {"caching": {"type": "disabled"}}}
        in_full.append(ask(client, question, in_full[-1].id if in_full else None, **disabled))
        items = question if isinstance(question, list) else [_user(question)]
        whole = messages.whole(None, segments, items)
        segments.append(Segment(tuple(items), tuple(item.to_dict() for item in answers[-1].output)))
        checkpoint = await checkpoints(answers[-1].id)
        assert checkpoint is not None
        assert checkpoint.prefix_hash == ids_hash(np.array(rendered_ids(vllm.url, whole), "<i4").data)

    assert [path(a) for a in answers] == [
        ("full", "new_conversation"),
        ("rewind", "history_rewritten"),
        ("hit", None),
    ]
    caching: dict[str, Any] = answers[1].caching  # type: ignore[attr-defined]
    assert 0 < caching["reused_tokens"] < answers[0].usage.input_tokens  # type: ignore[union-attr]
    assert [a.output_text for a in answers] == [a.output_text for a in in_full]


def test_without_the_plugin_everything_works(
    start_vllm: StartVllm, client_for: Callable[[str], OpenAI]
) -> None:
    client = client_for(start_vllm("stock", [], secret=None).url)
    first = ask(client, "My name is Ada.")
    second = ask(client, "What is my name?", first.id)
    assert [path(first), path(second)] == [("full", "no_plugin")] * 2
    stateless: list[Any] = [
        _user("My name is Ada."),
        *(i.to_dict() for i in first.output),
        _user("What is my name?"),
    ]
    assert ask(client, stateless).output_text == second.output_text
    assert client.responses.retrieve(second.id).output_text == second.output_text


def _user(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
