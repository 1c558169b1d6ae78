"""openai for Python: structured output and tools whose arguments are parsed."""

from typing import Any

import pytest
from openai import OpenAI, pydantic_responses_function_tool

from tests.clients.shared import LONGER, Forecast, GetWeather

QUESTION = "What is the weather in Rome?"


def test_parse_makes_the_object(client: OpenAI) -> None:
    answer = client.responses.parse(input=QUESTION, text_format=Forecast, **LONGER)
    assert isinstance(answer.output_parsed, Forecast)
    schema = answer.model_dump(by_alias=True)["text"]["format"]
    assert (schema["type"], schema["name"], schema["strict"]) == ("json_schema", "Forecast", True)


def test_parse_goes_on_in_a_chain(client: OpenAI) -> None:
    first = client.responses.parse(input=QUESTION, text_format=Forecast, **LONGER)
    second = client.responses.parse(
        input="And in Paris?", text_format=Forecast, previous_response_id=first.id, **LONGER
    )
    assert isinstance(second.output_parsed, Forecast)


def test_the_stream_helper_parses(client: OpenAI) -> None:
    with client.responses.stream(input=QUESTION, text_format=Forecast, **LONGER) as stream:
        done = [event.parsed for event in stream if event.type == "response.output_text.done"]
        final = stream.get_final_response()
    assert isinstance(final.output_parsed, Forecast)
    assert done == [final.output_parsed]


@pytest.mark.parametrize("streamed", [False, True])
def test_a_tools_arguments_are_parsed(client: OpenAI, streamed: bool) -> None:
    settings: Any = {
        "tools": [pydantic_responses_function_tool(GetWeather)],
        "tool_choice": {"type": "function", "name": "GetWeather"},
        **LONGER,
    }
    if streamed:
        with client.responses.stream(input=QUESTION, **settings) as stream:
            deltas = [e.snapshot for e in stream if e.type == "response.function_call_arguments.delta"]
            answer: Any = stream.get_final_response()
        assert deltas[-1] == answer.output[0].arguments
    else:
        answer = client.responses.parse(input=QUESTION, **settings)
    (call,) = answer.output
    assert isinstance(call.parsed_arguments, GetWeather)


def test_json_mode_answers_an_object(client: OpenAI) -> None:
    answer = client.responses.create(
        input="Answer as JSON with the key city.", text={"format": {"type": "json_object"}}, **LONGER
    )
    assert answer.output_text.lstrip().startswith("{")
