"""openai-agents by its WebSocket transport: a run continues by reference, and nothing of it is stored."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from agents import Agent, ModelSettings, RunConfig, Runner
from agents.models.openai_responses import OpenAIResponsesWSModel
from openai import AsyncOpenAI, NotFoundError

from tests.clients.shared import MODEL
from tests.clients.test_openai_agents import Asked, get_weather

CONFIG = RunConfig(tracing_disabled=True)


@pytest_asyncio.fixture
async def model(async_client: AsyncOpenAI) -> AsyncIterator[OpenAIResponsesWSModel]:
    model = OpenAIResponsesWSModel(MODEL, async_client)
    yield model
    await model.close()


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_tool_loop(model: OpenAIResponsesWSModel, async_client: AsyncOpenAI, streamed: bool) -> None:
    settings = ModelSettings(temperature=0, max_tokens=60, tool_choice="get_weather", store=False)
    agent = Agent[Any](
        name="weather", instructions="Be brief.", model=model, model_settings=settings, tools=[get_weather]
    )
    options: Any = {"context": Asked(), "run_config": CONFIG, "auto_previous_response_id": True}
    if streamed:
        result: Any = Runner.run_streamed(agent, "What is the weather in Paris?", **options)
        paths = [
            event.data.response.caching["path"]
            async for event in result.stream_events()
            if event.type == "raw_response_event" and event.data.type == "response.completed"
        ]
        assert paths[1:] == ["hit"]
    else:
        result = await Runner.run(agent, "What is the weather in Paris?", **options)
    assert [item.type for item in result.new_items] == [
        "tool_call_item",
        "tool_call_output_item",
        "message_output_item",
    ]
    for response in result.raw_responses:
        with pytest.raises(NotFoundError):
            await async_client.responses.retrieve(response.response_id)
