"""openai for Python: what is stored can be read, paged, counted, deleted."""

from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from openai.types.responses import Response

from tests.clients.shared import FORCED, GREEDY, LONGER, WEATHER_TOOL

SHORT = {**GREEDY, "max_output_tokens": 4}


@pytest.fixture
def chain(client: OpenAI) -> list[Response]:
    answers: list[Response] = []
    for question in ("Name a river.", "Another.", "And one more."):
        previous = answers[-1].id if answers else None
        answers.append(client.responses.create(input=question, previous_response_id=previous, **SHORT))
    return answers


def test_retrieve_and_delete(client: OpenAI, chain: list[Response]) -> None:
    assert [client.responses.retrieve(answer.id) for answer in chain] == chain
    client.responses.delete(chain[0].id)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(chain[0].id)


def test_what_is_not_stored_cannot_be_read(client: OpenAI) -> None:
    answer = client.responses.create(input="Name a river.", store=False, **SHORT)
    with pytest.raises(NotFoundError):
        client.responses.retrieve(answer.id)


def test_input_items_are_the_whole_chains(client: OpenAI, chain: list[Response]) -> None:
    items: list[Any] = list(client.responses.input_items.list(chain[-1].id))
    texts = [(item.role, item.content[0].text) for item in items]
    outputs = [answer.output_text for answer in chain]
    asked = [
        ("user", "And one more."),
        ("assistant", outputs[1]),
        ("user", "Another."),
        ("assistant", outputs[0]),
        ("user", "Name a river."),
    ]
    assert texts == asked, "the newest first"
    oldest_first = list(client.responses.input_items.list(chain[-1].id, order="asc"))
    assert oldest_first == items[::-1]
    paged = list(client.responses.input_items.list(chain[-1].id, limit=2))
    assert paged == items
    after = client.responses.input_items.list(chain[-1].id, after=items[2].id, limit=1)
    assert after.data == items[3:4] and after.has_more


def test_input_items_of_a_tool_loop(client: OpenAI) -> None:
    first = client.responses.create(
        input="Weather in Rome?",
        tools=[WEATHER_TOOL],
        tool_choice=FORCED,
        **LONGER,
    )
    (call,) = first.output
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    second = client.responses.create(
        input=[result],
        previous_response_id=first.id,
        tools=[WEATHER_TOOL],
        **SHORT,
    )
    items = client.responses.input_items.list(second.id).data
    assert [item.type for item in items] == ["function_call_output", "function_call", "message"]


def test_tokens_are_counted_as_they_will_be(client: OpenAI, chain: list[Response]) -> None:
    asked: Any = {"input": "Which is the longest?", "model": SHORT["model"]}
    asks: list[Any] = [
        {},
        {"previous_response_id": chain[-1].id},
        {"instructions": "Be brief."},
        {"tools": [WEATHER_TOOL]},
    ]
    for fields in asks:
        count = client.responses.input_tokens.count(**asked, **fields)
        answer = client.responses.create(**{**SHORT, **asked}, **fields)
        assert count.input_tokens == answer.usage.input_tokens


def test_the_list_of_responses(client: OpenAI, chain: list[Response]) -> None:
    """The SDK has no method for it; its pages are those of OpenAI's other lists."""

    def page(**query: Any) -> list[str]:
        found: Any = client.get("/responses", cast_to=object, options={"params": query})
        return [response["id"] for response in found["data"]]

    ids = [answer.id for answer in chain]
    assert page(limit=3) == ids[::-1]
    assert page(limit=1, after=ids[2]) == [ids[1]]
    assert page(limit=2, after=ids[0], order="asc") == ids[1:]


def test_what_is_not_in_background_cannot_be_cancelled(client: OpenAI, chain: list[Response]) -> None:
    with pytest.raises(BadRequestError):
        client.responses.cancel(chain[0].id)
    with pytest.raises(NotFoundError):
        client.responses.cancel("resp_0")


def test_models(client: OpenAI) -> None:
    assert SHORT["model"] in [model.id for model in client.models.list()]
