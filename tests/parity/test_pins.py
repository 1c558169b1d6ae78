"""However a turn ends, the prompt that it continued is let go: through vLLM's own chat serving."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from vllm.outputs import CompletionOutput, RequestOutput

from app.prefix.wire import Commit, PrefixChatRequest, Reference
from tests.parity.offline import MODEL, Offline

ENDINGS = ("finishes", "fails", "is cancelled", "is aborted", "is never read", "is hung up on")


class Engine:
    """Ends a generation in some way, after two tokens."""

    def __init__(self, stock: Any) -> None:
        self._stock = stock
        self.ending = "finishes"
        self.started = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stock, name)

    async def generate(self, prompt: Any, _: Any, request_id: str, **__: Any) -> AsyncGenerator[Any, None]:
        def output(finish_reason: str | None) -> RequestOutput:
            choice = CompletionOutput(0, "x", [1], None, None, finish_reason=finish_reason)
            ids = prompt["prompt_token_ids"]
            return RequestOutput(request_id, None, ids, None, [choice], finish_reason is not None)

        yield output(None)
        self.started.set()
        if self.ending == "fails":
            raise RuntimeError("the engine died")
        if self.ending in ("is cancelled", "is hung up on"):
            await asyncio.sleep(3600)
        yield output("abort" if self.ending == "is aborted" else "stop")


@pytest.fixture
def worker(load: Callable[[str], Offline], monkeypatch: pytest.MonkeyPatch) -> Offline:
    worker = load("smollm2")
    engine = Engine(worker._engine)
    monkeypatch.setattr(worker._serving, "engine_client", engine)
    return worker


def request(text: str, after: Reference | None, *, stream: bool) -> PrefixChatRequest:
    chat = {"model": MODEL, "max_tokens": 2, "stream": stream}
    messages = [{"role": "user", "content": text}]
    return PrefixChatRequest(1, "n", chat, messages, after, commit=Commit(3600))


async def end(worker: Offline, body: PrefixChatRequest, ending: str) -> None:
    """Runs a turn to such an end."""
    engine: Engine = worker._serving.engine_client
    engine.ending, engine.started = ending, asyncio.Event()

    async def whole() -> None:
        answer, _ = await worker.service.chat(body, None)
        if isinstance(answer, AsyncGenerator):
            if ending == "is never read":
                return
            async for _ in answer:
                if ending == "is hung up on":
                    await answer.aclose()

    turn = asyncio.create_task(whole())
    if ending == "is cancelled" or (ending == "is hung up on" and not body.chat["stream"]):
        await engine.started.wait()
        turn.cancel()
    await asyncio.gather(turn, return_exceptions=True)


def test_whatever_ends_a_turn_nothing_stays_pinned(worker: Offline) -> None:
    chance, store = random.Random(0), worker.empty_store()

    async def all_of_them() -> int:
        body = request("hello", None, stream=False)
        await end(worker, body, "finishes")
        kept = 0
        for number in range(300):
            node = chance.choice(list(store._nodes.values()))
            ref = Reference(node.ref.hex(), node.hash, node.tokens, node.fingerprint)
            ending, before = chance.choice(ENDINGS), len(store)
            stream = chance.random() < 0.5
            await end(worker, request(f"turn {number}", ref, stream=stream), ending)
            kept += len(store) - before
            if ending not in ("finishes", "is never read") or (ending == "is never read" and stream):
                assert len(store) == before, f"a turn that {ending} is not kept"
            assert [n.pins for n in store._nodes.values()] == [0] * len(store), ending
        return kept

    assert worker.runner.run(all_of_them()) > 40
    for node in list(store._nodes.values()):
        store.drop(node.ref)
    assert (len(store), store.bytes_used, len(store._idle)) == (0, 0, 0)
