"""openai-agents: tools, sessions, chains and structured answers. It takes no answer that was cut."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from agents import (
    Agent,
    ModelSettings,
    OpenAIConversationsSession,
    OpenAIResponsesModel,
    RunConfig,
    RunContextWrapper,
    Runner,
    SQLiteSession,
    function_tool,
    handoff,
    set_tracing_disabled,
)
from openai import AsyncOpenAI

from tests.clients.shared import MODEL, Forecast, GetWeather
from tests.contract.recording import Recording

set_tracing_disabled(True)
CONFIG = RunConfig(tracing_disabled=True)
QUESTION = "What is the weather in Paris?"


@dataclass
class Asked:
    """The context of one run. A small model would call its tool for ever: there is one only until then."""

    called: bool = False


@function_tool(is_enabled=lambda run, _: not run.context.called)
def get_weather(run: RunContextWrapper[Asked], city: str) -> str:
    """Get the weather of a city."""
    run.context.called = True
    return f"It is clear and warm in {city}."


@pytest.fixture
def agent(async_client: AsyncOpenAI) -> Agent[Any]:
    """It calls its tool first, since the choice is forced once, and then answers in a fixed form."""
    return Agent(
        name="weather",
        instructions="Answer with a forecast.",
        model=OpenAIResponsesModel(MODEL, async_client),
        model_settings=ModelSettings(temperature=0, max_tokens=120, tool_choice="get_weather"),
        tools=[get_weather],
        output_type=Forecast,
    )


@pytest.fixture
def session(tmp_path: Path) -> Iterator[SQLiteSession]:
    session = SQLiteSession("conversation", tmp_path / "session.db")
    yield session
    session.close()


def asked(recording: Recording) -> list[dict[str, Any]]:
    return [exchange.asked() for exchange in recording.exchanges]


async def test_a_tool_loop(agent: Agent[Any], recording: Recording) -> None:
    result = await Runner.run(agent, QUESTION, context=Asked(), run_config=CONFIG)
    assert isinstance(result.final_output, Forecast)
    assert [item.type for item in result.new_items] == [
        "tool_call_item",
        "tool_call_output_item",
        "message_output_item",
    ]
    assert len(asked(recording)) == 2
    kinds = [item.get("type", "message") for item in asked(recording)[1]["input"]]
    assert kinds == ["message", "function_call", "function_call_output"], "the history went back unchanged"


async def test_streamed(agent: Agent[Any]) -> None:
    result = Runner.run_streamed(agent, QUESTION, context=Asked(), run_config=CONFIG)
    raw = [event.data.type async for event in result.stream_events() if event.type == "raw_response_event"]
    assert isinstance(result.final_output, Forecast)
    assert raw.count("response.completed") == 2
    assert {"response.function_call_arguments.done", "response.output_text.done"} <= set(raw)


async def forecast(agent: Agent[Any], question: str, streamed: bool, **options: Any) -> None:
    if streamed:
        result: Any = Runner.run_streamed(agent, question, **options)
        assert [event async for event in result.stream_events()]
    else:
        result = await Runner.run(agent, question, **options)
    assert isinstance(result.final_output, Forecast)


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_session_remembers(
    agent: Agent[Any], session: SQLiteSession, recording: Recording, streamed: bool
) -> None:
    for question in (QUESTION, "And in Rome?"):
        options: Any = {"session": session, "context": Asked(), "run_config": CONFIG}
        await forecast(agent, question, streamed, **options)
    assert len(await session.get_items()) == 8, "per question: itself, the call, its output, the answer"
    assert [len(body["input"]) for body in asked(recording)] == [1, 3, 5, 7]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_session_is_kept_in_a_conversation(
    agent: Agent[Any], async_client: AsyncOpenAI, recording: Recording, streamed: bool
) -> None:
    session = OpenAIConversationsSession(openai_client=async_client)
    for question in (QUESTION, "And in Rome?"):
        options: Any = {"session": session, "context": Asked(), "run_config": CONFIG}
        await forecast(agent, question, streamed, **options)
    kinds = ["message", "function_call", "function_call_output", "message"] * 2
    assert [item.get("type", "message") for item in await session.get_items()] == kinds
    turns = [exchange.asked() for exchange in recording.exchanges if exchange.path == "/v1/responses"]
    assert [len(body["input"]) for body in turns] == [1, 3, 5, 7]
    last = await session.pop_item()
    assert last is not None and last["type"] == "message"  # type: ignore[typeddict-item]
    assert len(await session.get_items()) == 7
    await session.add_items([{"role": "user", "content": f"n {n}"} for n in range(30)])
    assert len(await session.get_items(limit=25)) == 25
    assert len(await session.get_items()) == 37
    await session.clear_session()
    assert await session.get_items() == []


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_conversation_has_only_what_is_new_sent(
    agent: Agent[Any], async_client: AsyncOpenAI, recording: Recording, streamed: bool
) -> None:
    conversation = (await async_client.conversations.create()).id
    for question in (QUESTION, "And in Rome?"):
        options: Any = {"conversation_id": conversation, "context": Asked(), "run_config": CONFIG}
        await forecast(agent, question, streamed, **options)
    turns = [exchange for exchange in recording.exchanges if exchange.path == "/v1/responses"]
    assert [len(turn.asked()["input"]) for turn in turns] == [1, 1, 1, 1]
    assert {turn.asked()["conversation"] for turn in turns} == {conversation}
    items = [item async for item in async_client.conversations.items.list(conversation, order="asc")]
    kinds = ["message", "function_call", "function_call_output", "message"] * 2
    assert [item.type for item in items] == kinds


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_chain_sends_only_what_is_new(
    agent: Agent[Any], recording: Recording, streamed: bool
) -> None:
    previous = None
    for question in (QUESTION, "And in Rome?"):
        options: Any = {"auto_previous_response_id": True, "context": Asked(), "run_config": CONFIG}
        if streamed:
            result: Any = Runner.run_streamed(agent, question, previous_response_id=previous, **options)
            assert [event async for event in result.stream_events()]
        else:
            result = await Runner.run(agent, question, previous_response_id=previous, **options)
        assert isinstance(result.final_output, Forecast)
        previous = result.last_response_id
    bodies = asked(recording)
    assert [len(body["input"]) for body in bodies] == [1, 1, 1, 1]
    assert [bool(body.get("previous_response_id")) for body in bodies] == [False, True, True, True]


async def test_an_agent_hands_over(async_client: AsyncOpenAI, agent: Agent[Any]) -> None:
    handed: list[GetWeather] = []

    def note(_: RunContextWrapper[Asked], city: GetWeather) -> None:
        handed.append(city)

    desk = Agent(
        name="desk",
        model=OpenAIResponsesModel(MODEL, async_client),
        model_settings=ModelSettings(temperature=0, max_tokens=120, tool_choice="transfer_to_weather"),
        handoffs=[handoff(agent, on_handoff=note, input_type=GetWeather)],
    )
    result = await Runner.run(desk, QUESTION, context=Asked(), run_config=CONFIG)
    assert result.last_agent is agent and handed
    assert isinstance(result.final_output, Forecast)
