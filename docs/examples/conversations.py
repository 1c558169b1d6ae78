"""A conversation that the server keeps: its turns, and what was added or deleted between them."""

import os

from openai import ConflictError, OpenAI

client = OpenAI(base_url=os.environ.get("BASE_URL", "http://127.0.0.1:8080/v1"), api_key="unused")
MODEL = os.environ.get("MODEL", "SmolLM2-135M-Instruct")

conversation = client.conversations.create(
    items=[{"role": "system", "content": "You are brief."}], metadata={"topic": "rivers"}
)
print("A conversation:", conversation.id)


def ask(question: str) -> None:
    answer = client.responses.create(
        model=MODEL, input=question, conversation=conversation.id, max_output_tokens=30, temperature=0
    )
    caching = answer.model_dump()["caching"]
    print(f"{question} -> {answer.output_text!r}\n  {caching['path']}, {caching['reason']}")


ask("Name a river.")
ask("And another one.")  # The history is neither sent nor read again: `hit`.

items = list(client.conversations.items.list(conversation.id, order="asc"))
assert [getattr(item, "role", item.type) for item in items] == ["system"] + ["user", "assistant"] * 2

# Take the second question and its answer back. The next turn goes on from before them: `rewind`.
for item in items[3:]:
    client.conversations.items.delete(item.id, conversation_id=conversation.id)
ask("Name a lake.")

# What is added counts as said. Then a turn needs no input of its own.
client.conversations.items.create(conversation.id, items=[{"role": "user", "content": "And a sea."}])
try:
    client.responses.create(model=MODEL, conversation=conversation.id, max_output_tokens=30)
except ConflictError as busy:  # Of two turns at once the second waits, or gets this: CONVERSATION_BUSY.
    print(busy.code)

print(len(list(client.conversations.items.list(conversation.id))), "items")
assert client.conversations.delete(conversation.id).deleted
