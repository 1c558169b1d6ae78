"""One WebSocket for many turns: continued by reference though nothing is stored, and two at once."""

import os
from typing import Any

from openai import OpenAI
from openai.resources.responses.responses import ResponsesConnection

client = OpenAI(base_url=os.environ.get("BASE_URL", "http://127.0.0.1:8080/v1"), api_key="unused")
MODEL = os.environ.get("MODEL", "SmolLM2-135M-Instruct")
ENDS = ("response.completed", "response.incomplete", "response.failed", "error")


def ends(connection: ResponsesConnection, count: int) -> dict[str | None, Any]:
    """The final responses of the next `count` that end, by lane."""
    responses: dict[str | None, Any] = {}
    for event in connection:
        if event.type in ENDS:
            assert event.type != "error", event
            responses[event.stream_id] = event.response
            if len(responses) == count:
                break
    return responses


def show(lane: str | None, response: Any) -> None:
    caching = response.model_dump()["caching"]
    print(f"{lane}: {response.output_text!r}\n  {caching['path']}, {caching['reason']}")


with client.responses.connect() as connection:
    common: dict[str, Any] = {"model": MODEL, "store": False, "instructions": "You are brief."}

    # Prepare the prefix before there is a question.
    connection.response.create(**common, input="We talk about rivers.", generate=False)
    start = ends(connection, 1)[None]
    assert start.output == []

    # Two questions at once, each from there: in lanes of their own, their events mixed.
    for lane, question in (("names", "Name one."), ("facts", "Tell me a fact.")):
        connection.response.create(
            **common, input=question, previous_response_id=start.id, stream_id=lane, max_output_tokens=30
        )
    answers = ends(connection, 2)
    for lane in ("names", "facts"):
        show(lane, answers[lane])

    # Nothing of it is stored, yet the next turn sends only what is new.
    parent = answers["facts"].id
    connection.response.create(
        **common, input="Why?", previous_response_id=parent, stream_id="facts", max_output_tokens=30
    )
    show("facts", ends(connection, 1)["facts"])

    # An error is an event; the socket can be used as before.
    connection.response.create(**common, input="Hello?", previous_response_id="resp_of_another_socket")
    event: Any = connection.recv()
    print(event.status, event.error.code)
    assert event.error.code == "previous_response_not_found"
