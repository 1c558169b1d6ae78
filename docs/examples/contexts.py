"""A context: instructions that are made ready once, and conversations that start from them."""

import os
from typing import Any

from openai import NotFoundError, OpenAI

client = OpenAI(base_url=os.environ.get("BASE_URL", "http://127.0.0.1:8080/v1"), api_key="unused")
MODEL = os.environ.get("MODEL", "SmolLM2-135M-Instruct")

RULES = "\n".join(f"{number}. Rule {number} of the house is to be kind." for number in range(1, 40))

context: Any = client.post(
    "/contexts",
    cast_to=object,
    body={"name": "house", "model": MODEL, "instructions": f"You know these rules.\n{RULES}", "ttl": 600},
)
print(
    f"{context['id']} is {context['status']}: {context['token_count']} tokens, for {context['ttl']} seconds"
)

# Each question begins a conversation: none of them sends the rules, and none of them is prefilled with them.
session = {"x-session-id": context["id"], "x-session-ttl": "1200"}
for question in ("What is the first rule?", "How many rules are there?"):
    answer = client.responses.with_raw_response.create(
        model=MODEL, input=question, max_output_tokens=30, extra_headers=session
    )
    first = answer.parse()
    caching: Any = first.to_dict()["caching"]
    print(f"{question} -> {first.output_text!r}")
    print(f"  {caching['path']}, {first.usage.input_tokens_details.cached_tokens} tokens from the cache")
    assert first.instructions == context["instructions"]
    assert int(answer.headers["x-session-ttl"]) > 600

# The next turn says what it continues, and the session stands in for the instructions again.
second = client.responses.create(
    model=MODEL,
    input="And the last?",
    previous_response_id=first.id,
    max_output_tokens=30,
    extra_headers=session,
)
assert second.instructions == context["instructions"]

client.delete(f"/contexts/{context['id']}", cast_to=object)
try:
    client.responses.create(model=MODEL, input="Hello?", extra_headers=session)
except NotFoundError as error:
    print("deleted:", error.message)
