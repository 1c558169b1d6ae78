"""The proof by trial: random conversations through the plugin, each prompt held against vLLM's own."""

import copy
from collections import Counter
from collections.abc import Callable, Sequence

from app.certify.certificate import Parity
from app.certify.conversations import Conversations, Step, alternating
from app.certify.offline import Offline, Prompt, Refused
from app.certify.texts import SALT, kept_count
from app.certify.thread import Turn, play, stock_chat

_SHOWN = 5
_TRIES_PER_TURN = 20
"""Of a template that refuses more than this, fewer turns are compared than were asked for."""


def compare(
    worker: Offline,
    turns: int,
    seed: int,
    special: Sequence[str],
    *,
    orderly: float,
    progress: Callable[[int], None] = lambda _: None,
) -> Parity:
    """Play until so many turns were compared. See Conversations for `special` and `orderly`.

    progress: called with the number of turns after each conversation.
    """
    trial = _Trial(worker)
    supply = Conversations(seed, special, orderly)
    while trial.counts["turns"] < turns and trial.counts.total() < _TRIES_PER_TURN * turns:
        worker.runner.run(trial.conversation(supply.steps()))
        progress(trial.counts["turns"])
    return trial.result(seed)


class _Trial:
    def __init__(self, worker: Offline) -> None:
        self._worker = worker
        self._conversations = self._tokens = self._known = 0
        self.counts: Counter[str] = Counter()
        self._paths: Counter[str] = Counter()
        self._differences: list[str] = []

    async def conversation(self, steps: Sequence[Step]) -> None:
        self._worker.empty_store()
        self._conversations += 1
        played = [Turn()]
        for number, step in enumerate(steps, start=1):
            base = played[-1 - step.at % len(played)]
            turn, difference = await self._turn(_seen_by(step, base), step)
            if difference:
                self.counts["different"] += 1
                self._differences.append(f"conversation {self._conversations}, step {number}: {difference}")
            if turn is not None:
                played.append(turn)

    async def _turn(self, base: Turn, step: Step) -> tuple[Turn | None, str | None]:
        """The turn, where it is taken, and what differs."""
        added = alternating(base.messages, step.added) if step.orderly else step.added
        options = base.options if step.options is None else step.options
        turn = await play(self._worker, base, added, options)
        messages = copy.deepcopy([*base.messages, *added])
        stock = await self._worker.stock(stock_chat(options), messages, SALT)
        if isinstance(turn, Refused) or isinstance(stock, Refused):
            same = turn == stock
            self.counts["refused" if same else "turns"] += 1
            return None, None if same else f"the plugin answers {_said(turn)}, vLLM {_said(stock)}"
        self.counts["turns"] += 1
        assert turn.prompt and turn.receipt
        self._paths[turn.receipt.path] += 1
        self._tokens += turn.receipt.tokens
        self._known += turn.receipt.reused_tokens
        return turn, _difference(turn.prompt, stock)

    def result(self, seed: int) -> Parity:
        return Parity(
            seed=seed,
            turns=self.counts["turns"],
            refused=self.counts["refused"],
            paths=dict(sorted(self._paths.items())),
            tokens=self._tokens,
            known=self._known,
            different=self.counts["different"],
            differences=self._differences[:_SHOWN],
        )


def _seen_by(step: Step, base: Turn) -> Turn:
    """The turn that `step` starts from, as it sends it."""
    if not step.whole:
        return base
    messages = list(base.messages)
    if step.edit and messages:
        at = step.at % len(messages)
        messages[at] = {**messages[at], "content": "edited"}
    return Turn(tuple(messages), base.options)


def _said(outcome: object) -> str:
    return repr(outcome.message) if isinstance(outcome, Refused) else "with a prompt"


def _difference(prompt: Prompt, stock: Prompt) -> str | None:
    if prompt.ids != stock.ids:
        at = kept_count(prompt.ids, stock.ids)
        return (
            f"token {at} of {len(stock.ids)} is {prompt.ids[at : at + 3]} from the plugin, "
            f"{stock.ids[at : at + 3]} in vLLM's full tokenization"
        )
    if prompt.text != stock.text:
        return "the rendered text"
    return None if prompt.rest == stock.rest else f"{prompt.rest} is not {stock.rest}"
