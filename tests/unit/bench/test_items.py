"""The benchmark's own conversion of items, against what the service makes of the same ones."""

from app.engine.messages import whole
from bench import items

CALL = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": '{"n": 1}', "status": "completed"}
THOUGHT = {
    "type": "reasoning",
    "summary": [],
    "content": [{"type": "reasoning_text", "text": "Hm."}],
}
SAID = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "So."}]}
LOOP = [items.user("Why?"), THOUGHT, CALL, items.tool_result("c1", "42"), THOUGHT, SAID, items.user("And?")]


def test_a_tool_loop_becomes_the_messages_that_the_service_sends() -> None:
    assert items.messages(LOOP) == whole(None, (), LOOP)


def test_each_step_of_the_model_is_a_message() -> None:
    roles = [message["role"] for message in items.messages([items.user("?"), SAID, THOUGHT, SAID])]
    assert roles == ["user", "assistant", "assistant"]


def test_chat_deltas_become_the_items_that_a_responses_server_gives() -> None:
    call = {"id": "c1", "name": "f", "arguments": '{"n": 1}'}
    made = items.from_chat("So.", "Hm.", [call])
    assert [item["type"] for item in made] == ["reasoning", "message", "function_call"]
    assert items.messages(made) == items.messages([THOUGHT, SAID, CALL])
    assert items.text_of(made) == items.text_of([THOUGHT, SAID, CALL]) == 'Hm.\nSo.\n["f", "{\\"n\\": 1}"]'


def test_the_first_call_is_found() -> None:
    assert items.function_call([THOUGHT, CALL]) == CALL
    assert items.function_call([SAID]) is None
