"""A long conversation, summarised by the model once its prompt has so many tokens, and gone on from."""

import os
from typing import Any

from openai import OpenAI

MODEL = os.environ.get("MODEL", "SmolLM2-135M-Instruct")
client = OpenAI(base_url=os.environ.get("BASE_URL", "http://127.0.0.1:8080/v1"), api_key="unused")

QUESTIONS = [
    "Tell me about rivers.",
    "And about lakes?",
    "And about the sea?",
    "Which is the deepest?",
    "Why?",
]

# By reference: a turn whose prompt has 250 tokens or more begins with a compaction.
previous = None
for question in QUESTIONS:
    response = client.responses.create(
        model=MODEL,
        input=question,
        previous_response_id=previous,
        max_output_tokens=80,
        temperature=0,
        context_management=[{"type": "compaction", "compact_threshold": 250}],
    )
    previous = response.id
    caching: dict[str, Any] = response.model_extra["caching"]
    kinds = [item.type for item in response.output]
    print(f"{question:24} {response.usage.input_tokens:5} tokens  {caching['path']:6} {kinds}")

# What a client carries itself: the item stands for all that came before it.
compacted = client.responses.compact(model=MODEL, previous_response_id=previous)
assert [item.type for item in compacted.output] == ["compaction"]
answer = client.responses.create(
    model=MODEL,
    input=[*compacted.output, {"role": "user", "content": "What did we talk about?"}],
    max_output_tokens=80,
    temperature=0,
    store=False,
)
print(f"\n{compacted.usage.input_tokens} tokens became {answer.usage.input_tokens}, the question among them.")
print(answer.output_text)
