"""What is stored is what was answered: on real vLLM and real Postgres, by two services over one database."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.responses import Response

from tests import contract
from tests.e2e.stack import ask, chat

QUESTIONS = ["Name a river.", "Another one.", "And one more."]
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.fixture
def other(client_for: Callable[..., OpenAI], vllm_url: str) -> OpenAI:
    """Another service over the same database and vLLM."""
    return client_for(vllm_url)


def read(client: OpenAI, path: str, **query: Any) -> Any:
    """The JSON of a GET, as it came."""
    return client.get(path, cast_to=object, options={"params": query})


def final_event(client: OpenAI, **asked: Any) -> dict[str, Any]:
    """The response of the last event of a stream, as it came."""
    with client.responses.with_streaming_response.create(stream=True, temperature=0, **asked) as stream:
        lines = [line for line in stream.iter_lines() if line.startswith("data: ")]
    final: dict[str, Any] = json.loads(lines[-1].removeprefix("data: "))["response"]
    return final


@pytest.mark.parametrize(
    "asked",
    [
        {"input": "Name a river.", "max_output_tokens": 16, "metadata": {"a": "b"}},
        {"input": "Tell a story.", "max_output_tokens": 3, "top_logprobs": 2, "user": "someone"},
        {
            "input": "Weather?",
            "tools": [WEATHER],
            "tool_choice": "required",
            "include": ["message.output_text.logprobs"],
        },
    ],
    ids=["plain", "cut", "called"],
)
def test_retrieve_gives_what_the_last_event_held(client: OpenAI, other: OpenAI, asked: Any) -> None:
    final = final_event(client, **{"max_output_tokens": 60, **asked})
    assert final["status"] in ("completed", "incomplete")
    for service in (client, other):
        found = read(service, f"/responses/{final['id']}")
        assert found == final
        contract.check_response(found)


def test_input_items_are_the_whole_conversation(client: OpenAI, other: OpenAI) -> None:
    answers = chat(client, QUESTIONS)
    page = read(other, f"/responses/{answers[-1].id}/input_items", order="asc")
    contract.check_item_list(page)
    texts = [item["content"][0]["text"] for item in page["data"]]
    first, second, _ = (answer.output_text for answer in answers)
    assert texts == [QUESTIONS[0], first, QUESTIONS[1], second, QUESTIONS[2]]
    newest_first = [item.id for item in other.responses.input_items.list(answers[-1].id, limit=2)]
    assert newest_first == [item["id"] for item in page["data"]][::-1]


def test_the_list_of_responses_has_the_newest_first(client: OpenAI, other: OpenAI) -> None:
    """Even where several are of the same second."""
    answers = [ask(client, question, max_output_tokens=1) for question in QUESTIONS]
    page = read(other, "/responses", limit=3)
    contract.check_response_list(page)
    assert [found["id"] for found in page["data"]] == [answer.id for answer in answers[::-1]]
    assert page["data"][0] == read(client, f"/responses/{answers[-1].id}")
    after = read(other, "/responses", limit=2, order="asc", after=answers[0].id)
    assert [found["id"] for found in after["data"]] == [answer.id for answer in answers[1:]]


def reference(response: Response) -> Any:
    return {"type": "item_reference", "id": response.output[0].id}


def test_an_item_can_be_referred_to_until_its_response_is_deleted(client: OpenAI, other: OpenAI) -> None:
    first = ask(client, "Name a river.", max_output_tokens=8)
    asked: Any = [reference(first), {"role": "user", "content": "Where is it?"}]
    second = ask(other, asked, max_output_tokens=8)
    items = read(client, f"/responses/{second.id}/input_items", order="asc")
    contract.check_item_list(items)
    assert items["data"][0] == first.output[0].to_dict()
    # The second response now holds the item itself.
    client.responses.delete(first.id)
    third = ask(other, asked, max_output_tokens=1)
    for holder in (second, third):
        client.responses.delete(holder.id)
    with pytest.raises(NotFoundError) as error:
        ask(other, asked)
    assert error.value.param == "input[0].id"


def test_a_deleted_response_is_gone_from_every_service(client: OpenAI, other: OpenAI) -> None:
    first, second = chat(client, QUESTIONS[:2])
    other.responses.delete(first.id)
    for call in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(NotFoundError):
            call(first.id)
    with pytest.raises(BadRequestError) as error:
        ask(client, "And?", first.id)
    assert error.value.code == "previous_response_not_found"
    # Its items are still what the second was asked after.
    assert len(client.responses.input_items.list(second.id).data) == 3
    ask(client, "And?", second.id, max_output_tokens=1)
