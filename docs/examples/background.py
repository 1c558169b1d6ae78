"""A response in the background: left in mid-stream and taken up again, polled, and cancelled."""

import os
import time

from openai import OpenAI

client = OpenAI(base_url=os.environ.get("BASE_URL", "http://127.0.0.1:8080/v1"), api_key="unused")
MODEL = os.environ.get("MODEL", "SmolLM2-135M-Instruct")

# It is made whether anybody listens or not.
stream = client.responses.create(
    model=MODEL, input="Tell a long story about the sea.", max_output_tokens=200, background=True, stream=True
)
text, last, response_id = "", -1, ""
for event in stream:
    last = event.sequence_number
    if event.type == "response.created":
        response_id = event.response.id
    elif event.type == "response.output_text.delta":
        text += event.delta
    if last >= 20:
        break
stream.close()
print(f"left {response_id} after event {last}: {text!r}")

# Later, from anywhere: every event after that one.
for event in client.responses.retrieve(response_id, stream=True, starting_after=last):
    assert event.sequence_number == last + 1
    last = event.sequence_number
    if event.type == "response.output_text.delta":
        text += event.delta
response = client.responses.retrieve(response_id)
print(f"{response.status} after event {last}: {len(text)} characters")
assert response.output_text == text

# Without a stream: look again until it has ended.
waiting = client.responses.create(model=MODEL, input="Say hello.", max_output_tokens=20, background=True)
print(waiting.status)
while waiting.status in ("queued", "in_progress"):
    time.sleep(0.2)
    waiting = client.responses.retrieve(waiting.id)
print(waiting.status, waiting.output_text)

# Cancelled, as often as you like.
unwanted = client.responses.create(model=MODEL, input="Count to a million.", background=True)
assert client.responses.cancel(unwanted.id).status == "cancelled"
assert client.responses.cancel(unwanted.id).status == "cancelled"
print("cancelled", unwanted.id)
