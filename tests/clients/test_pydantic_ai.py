"""pydantic-ai's OpenAIResponsesModel: tools, structured answers, histories sent whole and by reference."""

from typing import Any

import pytest
from openai import AsyncOpenAI
from pydantic_ai import Agent, NativeOutput, ToolOutput
from pydantic_ai.capabilities import AbstractCapability
from pydantic_ai.models.openai import OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.providers.openai import OpenAIProvider

from tests.clients.shared import MODEL, Forecast
from tests.contract.recording import Recording

GREEDY = OpenAIResponsesModelSettings(temperature=0, max_tokens=120)
BY_REFERENCE = OpenAIResponsesModelSettings(**GREEDY, openai_previous_response_id="auto")
QUESTION = "What is the weather in Rome?"


class ToolFirst(AbstractCapability[None]):
    """The first step of a run calls the tool; after that the model may answer, but call nothing."""

    def get_model_settings(self) -> Any:
        return lambda ctx: {"tool_choice": ["get_weather"] if ctx.run_step == 1 else "none"}


@pytest.fixture
def model(async_client: AsyncOpenAI) -> OpenAIResponsesModel:
    return OpenAIResponsesModel(MODEL, provider=OpenAIProvider(openai_client=async_client))


def asked(recording: Recording) -> list[dict[str, Any]]:
    return [exchange.asked() for exchange in recording.exchanges]


@pytest.mark.parametrize("settings", [GREEDY, BY_REFERENCE], ids=["whole", "by_reference"])
async def test_several_turns(
    model: OpenAIResponsesModel, recording: Recording, settings: OpenAIResponsesModelSettings
) -> None:
    agent = Agent(model, instructions="Be brief.", model_settings=settings)
    first = await agent.run("Name a river.")
    second = await agent.run("Another.", message_history=first.all_messages())
    third = await agent.run("And one more.", message_history=second.all_messages())
    assert first.output and second.output and third.output
    assert third.usage.output_tokens > 0
    expected = [1, 1, 1] if settings is BY_REFERENCE else [1, 3, 5]
    assert [len(body["input"]) for body in asked(recording)] == expected


@pytest.mark.parametrize("settings", [GREEDY, BY_REFERENCE], ids=["whole", "by_reference"])
@pytest.mark.parametrize(
    "output", [NativeOutput(Forecast), ToolOutput(Forecast, name="forecast")], ids=["native", "tool"]
)
async def test_a_structured_answer(
    model: OpenAIResponsesModel, settings: OpenAIResponsesModelSettings, output: Any
) -> None:
    """By a schema, or as a tool call that the model is required to make."""
    agent = Agent(model, output_type=output, model_settings=settings)
    first = await agent.run(QUESTION)
    assert isinstance(first.output, Forecast)
    second = await agent.run("And in Paris?", message_history=first.all_messages())
    assert isinstance(second.output, Forecast)


@pytest.mark.parametrize("settings", [GREEDY, BY_REFERENCE], ids=["whole", "by_reference"])
async def test_a_tool_loop(
    model: OpenAIResponsesModel, recording: Recording, settings: OpenAIResponsesModelSettings
) -> None:
    agent = Agent(
        model, output_type=NativeOutput(Forecast), model_settings=settings, capabilities=[ToolFirst()]
    )
    called: list[str] = []

    @agent.tool_plain
    def get_weather(city: str) -> str:
        """Get the weather of a city."""
        called.append(city)
        return f"It is clear and warm in {city}."

    result = await agent.run(QUESTION)
    assert len(called) == 1
    assert isinstance(result.output, Forecast)
    expected = [1, 1] if settings is BY_REFERENCE else [1, 3]
    assert [len(body["input"]) for body in asked(recording)] == expected


async def test_streams(model: OpenAIResponsesModel) -> None:
    agent = Agent(model, model_settings=BY_REFERENCE)
    async with agent.run_stream("Name a river.") as first:
        text = "".join([delta async for delta in first.stream_text(delta=True, debounce_by=None)])
    assert text == (await agent.run("Name a river.")).output
    async with agent.run_stream("Another.", message_history=first.all_messages()) as second:
        assert await second.get_output()


async def test_a_structured_answer_streams(model: OpenAIResponsesModel) -> None:
    agent = Agent(model, output_type=NativeOutput(Forecast), model_settings=GREEDY)
    async with agent.run_stream(QUESTION) as answer:
        assert isinstance(await answer.get_output(), Forecast)
