"""What the conversations are about. Made up, and different from message to message: a tokenizer remembers
words that it has seen, and text that repeats would be tokenized faster than people's."""

import random

from bench import items
from bench.items import Item

CALL, ANSWER, TOOL = "[[call", "[[answer]]", "lookup"
"""What a prompt ends with to make the scripted model call its tool, or answer (bench.scripted)."""
CHARACTERS_PER_TOKEN = 3.6
"""Of these texts, with Qwen3's tokenizer."""
TOKENS_PER_MESSAGE = 500
_SYLLABLES = """
ba be di do fa fe ga go ha hi ka ko la lo ma me na no pa po ra ri sa se ta to va ve wa we
""".split()  # noqa: SIM905 (a list of words has a line for each)
COMMON = """
the a of and to in is was for on that with as by it from at his her an were which be this had are not
but have or one new first also after two their been has when there who time would more water city people
river house music history century year world state work number part place made where school great long
small
""".split()  # noqa: SIM905 (a list of words has a line for each)


def words(chance: random.Random, tokens: int) -> str:
    """About `tokens` tokens of sentences, three words in four common ones."""
    made: list[str] = []
    length = 0
    while length < tokens * CHARACTERS_PER_TOKEN:
        common = chance.random() < 0.75
        word = (
            chance.choice(COMMON) if common else "".join(chance.choices(_SYLLABLES, k=chance.randint(2, 4)))
        )
        ends = chance.random() < 0.08
        made.append(word + (". " if ends else " "))
        length += len(made[-1])
    return "".join(made).strip() + "."


def history(tokens: int, title: str) -> list[Item]:
    """Alternating messages of about `tokens` tokens in all, the last one the user's. The same for the same
    title; of two with the same title the longer begins with the shorter."""
    chance = random.Random(title)
    each = min(TOKENS_PER_MESSAGE, max(20, tokens // 5))
    count = max(1, tokens // each // 2) * 2 + 1
    made = []
    for number in range(count):
        text = f"{title} {number}. {words(chance, each)}"
        made.append(items.assistant(text) if number % 2 else items.user(text))
    return made


def question(number: int) -> list[Item]:
    """What a user asks next."""
    return [items.user(f"Question {number}: what became of it, and why?")]
