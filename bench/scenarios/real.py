"""Chats with a model that has learned to write (the default one): the answers themselves are compared."""

from bench import items
from bench.modes import Options
from bench.rounds import Rounds
from bench.scale import Scale

NAME = "real"
ANSWER_TOKENS = 32
QUESTIONS = (
    "Name three rivers in Europe.",
    "Which of them is the longest?",
    "Which cities lie on it?",
    "Tell me more about the second of these cities.",
    "What do people eat there?",
    "How is that made?",
)
TOPICS = (
    "",
    "Let us talk about geography. ",
    "I am planning a journey by train. ",
    "My children want to know: ",
)


def asks(scale: Scale) -> int:
    return len(_topics(scale)) * len(QUESTIONS)


def run(rounds: Rounds, scale: Scale) -> None:
    options = Options(ANSWER_TOKENS)
    for number, topic in enumerate(_topics(scale)):
        points = rounds.started(NAME)
        for turn, question in enumerate(QUESTIONS, 1):
            new = [items.user((topic if turn == 1 else "") + question)]
            points = rounds.turn(NAME, f"turn {turn}", number, points, new, options)


def _topics(scale: Scale) -> tuple[str, ...]:
    return TOPICS[: max(1, scale.chats // 3)]
