"""openai for Python: answers, streams, chains, histories sent back, errors."""

import json
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from openai.types.responses import Response

from tests.clients.shared import FORCED, GREEDY, LONGER, MODEL, WEATHER_TOOL, path
from tests.e2e.stack import wait_until_idle


def test_create(client: OpenAI) -> None:
    answer = client.responses.create(
        input="Name a river.", instructions="Be brief.", metadata={"from": "test"}, user="u", **GREEDY
    )
    assert answer.output_text
    assert answer.usage and answer.usage.output_tokens <= 24
    assert (answer.model, answer.instructions, answer.metadata) == (MODEL, "Be brief.", {"from": "test"})
    assert (answer.temperature, answer.max_output_tokens, answer.user) == (0, 24, "u")


def test_a_stream_ends_with_what_is_stored(client: OpenAI) -> None:
    events = list(client.responses.create(input="Name a river.", stream=True, **GREEDY))
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    final = events[-1]
    assert final.type in ("response.completed", "response.incomplete")
    assert final.response.output_text == text != ""
    assert client.responses.retrieve(final.response.id) == final.response
    assert client.responses.create(input="Name a river.", **GREEDY).output_text == text


def test_the_stream_helper_follows(client: OpenAI) -> None:
    settings = {**GREEDY, "max_output_tokens": 200}
    with client.responses.stream(input="Say yes.", **settings) as stream:
        snapshots = [event.snapshot for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert snapshots[-1] == final.output_text


def test_an_answer_that_is_cut_is_incomplete(client: OpenAI) -> None:
    answer = client.responses.create(input="Tell a long story.", **{**GREEDY, "max_output_tokens": 4})
    assert answer.status == "incomplete"
    assert answer.incomplete_details and answer.incomplete_details.reason == "max_output_tokens"


@pytest.mark.parametrize("stream", [False, True])
def test_a_chain_and_a_history_sent_back_say_the_same(client: OpenAI, stream: bool) -> None:
    def ask(**fields: Any) -> Response:
        answer = client.responses.create(stream=stream, **GREEDY, **fields)
        return answer if isinstance(answer, Response) else list(answer)[-1].response  # type: ignore[union-attr]

    first = ask(input="Name three rivers in Europe.")
    chained = ask(input="Which is the longest?", previous_response_id=first.id)
    assert (path(chained), chained.previous_response_id) == ("hit", first.id)
    question = {"role": "user", "content": "Which is the longest?"}
    dumped = [item.model_dump() for item in first.output]
    for items in (first.output, dumped, [item.to_dict() for item in first.output]):
        sent = [{"role": "user", "content": "Name three rivers in Europe."}, *items, question]
        assert ask(input=sent).output_text == chained.output_text


def test_an_item_is_sent_back_by_its_id(client: OpenAI) -> None:
    first = client.responses.create(input="Name three rivers in Europe.", **GREEDY)
    reference = {"type": "item_reference", "id": first.output[0].id}
    question = {"role": "user", "content": "Which is the longest?"}
    sent: Any = [{"role": "user", "content": "Name three rivers in Europe."}, reference, question]
    by_reference = client.responses.create(input=sent, **GREEDY)
    chained = client.responses.create(input=[question], previous_response_id=first.id, **GREEDY)  # type: ignore[list-item]
    assert by_reference.output_text == chained.output_text


@pytest.mark.parametrize("stream", [False, True])
def test_a_tool_loop_by_reference_and_without_state(client: OpenAI, stream: bool) -> None:
    def ask(**fields: Any) -> Response:
        answer = client.responses.create(stream=stream, tools=[WEATHER_TOOL], **LONGER, **fields)
        return answer if isinstance(answer, Response) else list(answer)[-1].response  # type: ignore[union-attr]

    question: Any = {"role": "user", "content": "What is the weather in Paris?"}
    first = ask(input=[question], tool_choice=FORCED)
    (call,) = first.output
    assert call.type == "function_call" and call.name == "get_weather"
    assert json.loads(call.arguments)["city"] in ("Paris", "Rome")
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    chained = ask(input=[result], previous_response_id=first.id)
    assert path(chained) == "hit"
    assert ask(input=[question, *first.output, result]).output_text == chained.output_text
    dumped = [item.model_dump() for item in first.output]
    assert ask(input=[question, *dumped, result]).output_text == chained.output_text


@pytest.mark.parametrize(
    "choice",
    ["required", {"type": "allowed_tools", "mode": "required", "tools": [FORCED]}],
    ids=["required", "allowed_tools"],
)
def test_a_tool_is_required(client: OpenAI, choice: Any) -> None:
    other = {**WEATHER_TOOL, "name": "get_time"}
    answer = client.responses.create(
        input="What is the weather in Paris?",
        tools=[WEATHER_TOOL, other] if isinstance(choice, dict) else [WEATHER_TOOL],  # type: ignore[list-item]
        tool_choice=choice,
        **LONGER,
    )
    assert {item.name for item in answer.output if item.type == "function_call"} == {"get_weather"}
    assert answer.tools and answer.model_dump()["tool_choice"] == choice


@pytest.mark.parametrize("stream", [False, True])
def test_a_custom_tool_and_its_output(client: OpenAI, stream: bool) -> None:
    tool = {"type": "custom", "name": "run", "description": "Runs one word of a shell."}
    grammar = {"type": "grammar", "syntax": "regex", "definition": "(ls|pwd)"}
    settings: Any = {"tools": [{**tool, "format": grammar}], "stream": stream, **LONGER}

    def ask(**fields: Any) -> Response:
        answer = client.responses.create(**settings, **fields)
        return answer if isinstance(answer, Response) else list(answer)[-1].response

    first = ask(input="List the files.", tool_choice={"type": "custom", "name": "run"})
    (call,) = first.output
    assert call.type == "custom_tool_call" and call.name == "run"
    assert call.input in ("ls", "pwd")
    result = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "a.txt"}
    chained = ask(input=[result], previous_response_id=first.id)
    again = ask(input=[{"role": "user", "content": "List the files."}, *first.output, result])
    assert again.output_text == chained.output_text


def test_log_probabilities(client: OpenAI) -> None:
    asked: Any = {"include": ["message.output_text.logprobs"], "top_logprobs": 2, **GREEDY}
    answer = client.responses.create(input="Name a river.", **asked)
    part = answer.output[0].content[0]
    assert part.type == "output_text" and part.logprobs
    assert all(len(token.top_logprobs) == 2 for token in part.logprobs)
    assert "".join(token.token for token in part.logprobs).strip() == part.text.strip()
    events = list(client.responses.create(input="Name a river.", stream=True, **asked))
    assert any(event.logprobs for event in events if event.type == "response.output_text.delta")


async def test_the_async_client(async_client: AsyncOpenAI) -> None:
    first = await async_client.responses.create(input="Name a river.", **GREEDY)
    stream = await async_client.responses.create(
        input="Another.", previous_response_id=first.id, stream=True, **GREEDY
    )
    kinds = [event.type async for event in stream]
    assert kinds[0] == "response.created" and kinds[-1] in ("response.completed", "response.incomplete")
    assert (await async_client.responses.retrieve(first.id)).id == first.id


def test_hanging_up_in_mid_stream_ends_the_generation(client: OpenAI, vllm_url: str) -> None:
    first = client.responses.create(input="Name a river.", **GREEDY)
    settings = {**GREEDY, "max_output_tokens": 4000, "extra_body": {"ignore_eos": True}}
    with client.responses.create(
        input="Count to a thousand.", previous_response_id=first.id, stream=True, **settings
    ) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                break
    wait_until_idle(vllm_url)
    assert path(client.responses.create(input="Another.", previous_response_id=first.id, **GREEDY)) == "hit"


def test_errors_are_the_sdks_classes(client: OpenAI) -> None:
    def refused(**fields: Any) -> tuple[str | None, str | None]:
        with pytest.raises(BadRequestError) as caught:
            client.responses.create(**{"input": "x", **GREEDY, **fields})
        return caught.value.code, caught.value.param

    assert refused(previous_response_id="resp_0") == ("previous_response_not_found", "previous_response_id")
    assert refused(input="word " * 9000) == ("context_length_exceeded", "input")
    assert refused(temperature="hot") == ("invalid_type", "temperature")
    assert refused(extra_body={"colour": "red"}) == ("unknown_parameter", "colour")
    assert refused(tools=[{"type": "web_search"}])[1] in ("tools[0]", "tools[0].type")
    orphan = {"type": "function_call_output", "call_id": "call_0", "output": "x"}
    assert refused(input=[orphan])[1] == "input[0].call_id"
    with pytest.raises(NotFoundError) as caught:
        client.responses.create(**{"input": "x", **GREEDY, "model": "nope"})
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    for call in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(NotFoundError):
            call("resp_0")


def test_a_call_without_its_output_is_refused_and_the_chain_goes_on(client: OpenAI) -> None:
    settings: Any = {"tools": [WEATHER_TOOL], **LONGER}
    first = client.responses.create(input="Weather in Paris?", tool_choice=FORCED, **settings)
    with pytest.raises(BadRequestError):
        client.responses.create(input="And now?", previous_response_id=first.id, **settings)
    (call,) = first.output
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"}
    assert client.responses.create(input=[result], previous_response_id=first.id, **settings).output_text
