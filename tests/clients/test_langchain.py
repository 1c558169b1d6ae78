"""langchain-openai's ChatOpenAI on the Responses API, with the history kept by the server and without."""

from collections.abc import Callable
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

from tests.clients.shared import MODEL, Forecast
from tests.contract.recording import Recording

QUESTION = "What is the weather in Rome?"
Chat = Callable[..., ChatOpenAI]


@tool
def get_weather(city: str) -> str:
    """Get the weather of a city."""
    return f"It is clear and warm in {city}."


@pytest.fixture
def chat(base_url: str) -> Chat:
    def make(**fields: Any) -> ChatOpenAI:
        fields = {"max_tokens": 120, "use_previous_response_id": True, **fields}
        return ChatOpenAI(
            model=MODEL, base_url=base_url, api_key="unused", temperature=0, use_responses_api=True, **fields
        )

    return make


def last_asked(recording: Recording) -> dict[str, Any]:
    return recording.exchanges[-1].asked()


def test_a_conversation_by_reference(chat: Chat, recording: Recording) -> None:
    model = chat()
    messages: list[BaseMessage] = [HumanMessage("Name a river.")]
    first = model.invoke(messages)
    assert isinstance(first.content, list) and first.text
    assert first.usage_metadata and first.usage_metadata["output_tokens"] > 0
    second = model.invoke([*messages, first, HumanMessage("Another.")])
    assert second.text
    assert last_asked(recording)["previous_response_id"] == first.response_metadata["id"]
    assert len(last_asked(recording)["input"]) == 1


def test_a_conversation_sent_whole_says_the_same(chat: Chat, recording: Recording) -> None:
    messages: list[BaseMessage] = [HumanMessage("Name a river.")]
    first = chat().invoke(messages)
    messages += [first, HumanMessage("Another.")]
    by_reference = chat().invoke(messages)
    whole = chat(use_previous_response_id=False).invoke(messages)
    assert len(last_asked(recording)["input"]) == 3
    assert whole.text == by_reference.text


def test_a_stream(chat: Chat, recording: Recording) -> None:
    model = chat()
    chunks = list(model.stream("Name a river."))
    assert len(chunks) > 2
    first: Any = chunks[0]
    for chunk in chunks[1:]:
        first += chunk
    assert isinstance(first, AIMessageChunk) and first.usage_metadata
    assert first.text == model.invoke("Name a river.").text
    list(model.stream([HumanMessage("Name a river."), first, HumanMessage("Another.")]))
    assert last_asked(recording)["previous_response_id"] == first.response_metadata["id"]


@pytest.mark.parametrize("by_reference", [True, False])
def test_tools(chat: Chat, by_reference: bool) -> None:
    model = chat(use_previous_response_id=by_reference)
    question = HumanMessage(QUESTION)
    call = model.bind_tools([get_weather], tool_choice="get_weather", strict=True).invoke([question])
    assert isinstance(call, AIMessage)
    assert [found["name"] for found in call.tool_calls] == ["get_weather"]
    result = get_weather.invoke(call.tool_calls[0])
    assert isinstance(result, ToolMessage)
    answer = model.bind_tools([get_weather]).invoke([question, call, result])
    assert answer.text or answer.tool_calls


def test_tools_in_a_stream(chat: Chat) -> None:
    model = chat().bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False)
    call: Any = None
    for chunk in model.stream(QUESTION):
        call = chunk if call is None else call + chunk
    assert [found["name"] for found in call.tool_calls] == ["get_weather"]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output(chat: Chat, method: Any) -> None:
    answer = chat().with_structured_output(Forecast, method=method, strict=True).invoke(QUESTION)
    assert isinstance(answer, Forecast)


async def test_structured_output_with_the_message_and_tools(chat: Chat) -> None:
    model = chat().with_structured_output(Forecast, include_raw=True)
    answer: Any = await model.ainvoke(QUESTION)
    assert isinstance(answer["parsed"], Forecast) and not answer["parsing_error"]
    assert answer["raw"].response_metadata["id"].startswith("resp_")
