"""Compaction on real vLLM: at the exact count, opaque, and gone on from by reference or without."""

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import numpy as np
import pytest
from openai import BadRequestError, OpenAI
from openai.types.responses import Response

from app.conversation.compaction import Compacted
from app.conversation.records import DEFAULT_TENANT, Checkpoint, TenantId
from app.conversation.sealing import Sealer, Sealing
from app.local.model import DEFAULT_MODEL
from app.prefix.hashing import ids_hash
from app.prefix.wire import SECRET_HEADER
from app.store.database import Database
from app.store.responses import PostgresResponseStore
from bench.stack import MODEL
from tests.e2e.stack import SECRET, ask, caching, chat, path, rendered_ids, unique

Checkpoints = Callable[[str], Awaitable[Checkpoint | None]]
LOOKUP = {
    "type": "function",
    "name": "lookup",
    "parameters": {"type": "object", "properties": {"step": {"type": "integer"}}},
    "strict": False,
}


@pytest.fixture
def questions() -> list[str]:
    """That no other test has asked: what is known by content would be a hit."""
    return [f"Tell me about the river {unique()}.", "And about its source?", "And about its end?"]


@pytest.fixture
async def sealer(database: Database) -> Sealer:
    return await Sealing(PostgresResponseStore(database)).compactions()


def managed(threshold: int) -> dict[str, Any]:
    return {"context_management": [{"type": "compaction", "compact_threshold": threshold}]}


def kinds(response: Any) -> list[str]:
    return [item.type for item in response.output]


def opened(sealer: Sealer, item: Any) -> Compacted:
    return Compacted.of_json(sealer.open(DEFAULT_TENANT, item.encrypted_content))


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def beginning(compacted: Compacted, question: str) -> dict[str, Any]:
    """The first message of a prompt that goes on from a compaction."""
    heading = "The conversation before this was replaced by its summary:"
    return user(f"{heading}\n<summary>\n{compacted.summary}\n</summary>\n\n{question}")


def hash_of(vllm_url: str, messages: list[dict[str, Any]]) -> str:
    """Of the prompt that vLLM's own renderer makes."""
    return ids_hash(np.array(rendered_ids(vllm_url, messages), "<i4").data)


def forget(vllm_url: str, ref: str) -> None:
    answer = httpx.delete(f"{vllm_url}/prefix/v1/{ref}", headers={SECRET_HEADER: SECRET}, timeout=60)
    assert answer.json() == {"deleted": True}


def input_tokens(response: Response) -> int:
    """Of the prompt that was answered, without the summary's."""
    assert response.usage is not None
    return response.usage.input_tokens - caching(response).get("compaction", {}).get("input_tokens", 0)


def test_a_conversation_is_compacted_at_its_exact_count(client: OpenAI, questions: list[str]) -> None:
    last = chat(client, questions, max_output_tokens=30)[-1]
    count = client.responses.input_tokens.count(input="Why?", previous_response_id=last.id).input_tokens
    below = ask(client, "Why?", last.id, **managed(count + 1))
    assert (kinds(below), path(below)) == (["message"], ("hit", None))
    assert input_tokens(below) == count
    at = ask(client, "Why?", last.id, **managed(count))
    assert (kinds(at), path(at)) == (["compaction", "message"], ("full", "compacted"))
    summary = caching(at)["compaction"]
    # By reference: of the conversation nothing but its last answer was tokenized for the summary.
    assert (summary["path"], summary["reason"]) == ("hit", None)
    assert summary["reused_tokens"] >= input_tokens(last)
    assert 0 < summary["output_tokens"] <= max(64, count // 4)
    assert input_tokens(at) < count
    assert at.output[1].content[0].text == at.output_text  # type: ignore[union-attr, index]


async def test_the_next_turns_go_on_by_reference_from_what_vllm_renders(
    client_for: Callable[..., OpenAI],
    vllm_url: str,
    checkpoints: Checkpoints,
    sealer: Sealer,
    questions: list[str],
) -> None:
    client = client_for(vllm_url, prefix_policy="canonical", keep_token_ids=False)
    last = chat(client, questions, max_output_tokens=24)[-1]
    at = ask(client, "Why?", last.id, **managed(1))
    item, answer = at.output
    assert item.type == "compaction"
    compacted = opened(sealer, item)
    assert "summary" not in item.encrypted_content and compacted.summary not in item.encrypted_content
    assert [kept["content"][0]["text"] for kept in compacted.kept] == ["Why?"]
    messages = [beginning(compacted, "Why?")]
    last = at
    for question in ("Where?", "When?"):
        checkpoint = await checkpoints(last.id)
        assert checkpoint is not None and checkpoint.prefix_hash == hash_of(vllm_url, messages)
        messages += [assistant(last.output_text), user(question)]
        last = ask(client, question, last.id)
        assert path(last) == ("hit", None)
    checkpoint = await checkpoints(last.id)
    assert checkpoint is not None and checkpoint.prefix_hash == hash_of(vllm_url, messages)
    # The reference is lost: the whole conversation is the same prompt.
    forget(vllm_url, checkpoint.ref)
    again = ask(client, "How?", last.id)
    assert path(again)[0] == "reseed"
    messages += [assistant(last.output_text), user("How?")]
    checkpoint = await checkpoints(again.id)
    assert checkpoint is not None and checkpoint.prefix_hash == hash_of(vllm_url, messages)
    assert input_tokens(again) == len(rendered_ids(vllm_url, messages))
    listed = client.responses.input_items.list(again.id, order="asc").data
    assert [i.type for i in listed].count("compaction") == 1
    assert next(i for i in listed if i.type == "compaction").to_dict() == item.to_dict()
    assert answer.type == "message"


@pytest.mark.parametrize("pruned", [False, True])
def test_a_client_that_carries_its_items(
    client: OpenAI, vllm_url: str, questions: list[str], pruned: bool
) -> None:
    items: list[Any] = [user(questions[0])]
    first = ask(client, items, store=False)
    items += [*first.output, user("Why?")]
    second = ask(client, items, store=False, **managed(1))
    assert kinds(second) == ["compaction", "message"]
    items += [*second.output, user("Where?")]
    third = ask(client, items[-3:] if pruned else items, store=False)
    assert path(third) == ("full", "compacted")
    assert input_tokens(third) > input_tokens(second)
    counted = client.responses.input_tokens.count(input=items)
    assert counted.input_tokens == input_tokens(third)


def test_the_route_that_compacts(client: OpenAI, sealer: Sealer, questions: list[str]) -> None:
    last = chat(client, questions[:2], instructions="Be brief.", max_output_tokens=24)[-1]
    by_reference = client.responses.compact(model=last.model, previous_response_id=last.id)
    assert (by_reference.object, kinds(by_reference)) == ("response.compaction", ["compaction"])
    # Of the conversation all but its last answer was there.
    assert by_reference.usage.input_tokens_details.cached_tokens >= input_tokens(last) // 128 * 128
    carried: list[Any] = [user(questions[0]), assistant("It is long."), user(questions[1])]
    stateless = client.responses.compact(model=last.model, input=carried, instructions="Be brief.")
    assert opened(sealer, stateless.output[0]).kept[0]["content"][0]["text"] == questions[1]
    for compacted in (by_reference, stateless):
        went_on = ask(client, [*compacted.output, user("Why?")])
        assert path(went_on) == ("full", "compacted")
        assert path(ask(client, "Where?", went_on.id)) == ("hit", None)
    # What is before the item is superseded, and so is the response that is named.
    other = ask(client, [*by_reference.output, user("When?")], last.id)
    assert path(other) == ("full", "compacted")
    counted = client.responses.input_tokens.count(input=[*by_reference.output, user("When?")])
    assert input_tokens(other) == counted.input_tokens


def test_what_was_not_sealed_here_is_refused(client: OpenAI, sealer: Sealer) -> None:
    good = sealer.seal(DEFAULT_TENANT, Compacted("A river.", ()).as_json())
    foreign = sealer.seal(TenantId("other"), Compacted("A river.", ()).as_json())
    assert ask(client, [{"type": "compaction", "encrypted_content": good}, user("Why?")]).output_text
    for sealed in (good[:-3] + "AAA", foreign, "mr1_" + good[4:], "A river."):
        item: Any = {"type": "compaction", "encrypted_content": sealed}
        for send in (client.responses.create, client.responses.compact):
            with pytest.raises(BadRequestError) as refused:
                send(model=DEFAULT_MODEL, input=[user("x"), item])
            assert refused.value.code == "invalid_encrypted_content"
            assert refused.value.param == "input[1].encrypted_content"


def test_a_trigger_compacts_and_answers_nothing(client: OpenAI, questions: list[str]) -> None:
    first = ask(client, questions[0])
    trigger: Any = [{"type": "compaction_trigger"}]
    with client.responses.stream(
        model=first.model, input=trigger, previous_response_id=first.id, max_output_tokens=24
    ) as stream:
        events = list(stream)
    assert [e.type for e in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.compaction.compacting",
        "response.output_item.done",
        "response.completed",
    ]
    made = events[-1].response  # type: ignore[union-attr]
    assert (kinds(made), path(made)) == (["compaction"], ("hit", None))
    after = ask(client, "Why?", made.id)
    assert path(after) == ("full", "compacted")
    assert path(ask(client, "Where?", after.id)) == ("hit", None)
    with pytest.raises(BadRequestError, match="must be the final input item"):
        ask(client, [*trigger, user("x")], first.id)
    with pytest.raises(BadRequestError, match="nothing to compact"):
        ask(client, trigger)


def test_in_a_conversation(client: OpenAI, questions: list[str]) -> None:
    conversation = client.conversations.create().id
    said = [ask(client, questions[0], conversation=conversation)]
    said.append(ask(client, "Why?", conversation=conversation, **managed(1)))
    said.append(ask(client, "Where?", conversation=conversation))
    assert [path(r) for r in said] == [("full", "new_conversation"), ("full", "compacted"), ("hit", None)]
    items = client.conversations.items.list(conversation, order="asc").data
    assert [i.type for i in items] == [*["message"] * 3, "compaction", *["message"] * 3]


def test_a_loop_of_calls_is_compacted_in_its_midst(
    client_for: Callable[..., OpenAI], scripted_vllm_url: str, sealer: Sealer
) -> None:
    client = client_for(scripted_vllm_url)
    task = f"Look up {unique()}. [[call 1]]"
    asked: dict[str, Any] = {"model": MODEL, "tools": [LOOKUP], "max_output_tokens": 200}
    turn = ask(client, task, **asked)
    for step in range(2, 5):
        assert turn.output[-1].type == "function_call"
        result: Any = {
            "type": "function_call_output",
            "call_id": turn.output[-1].call_id,
            "output": f"Found. [[call {step}]]",
        }
        turn = ask(client, [result], turn.id, **asked, **(managed(1) if step == 3 else {}))
        if step == 3:
            assert (kinds(turn)[0], path(turn)) == ("compaction", ("full", "compacted"))
            kept = opened(sealer, turn.output[0]).kept
            assert kept[0]["content"][0]["text"] == task
            assert [item["type"] for item in kept if item["type"] != "message"] == [
                "reasoning",
                "function_call",
                "function_call_output",
            ]
            assert caching(turn)["compaction"]["output_tokens"] > 0
        else:
            assert path(turn)[0] == "hit"
    assert [item.arguments for item in turn.output if item.type == "function_call"] == ['{"step": 4}']
