"""What a turn sends to the plugin, and what is read from its receipt, over a scripted HTTP transport."""

import base64
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import httpx
import msgspec
import pytest
import pytest_asyncio

from app.conversation.engine import Delta, Generation, Margin, NoPlugin, Outcome, PrefixMissed, Whole
from app.conversation.options import Options
from app.conversation.records import Checkpoint
from app.engine.worker import VllmWorker
from app.errors import EngineError
from app.prefix.wire import PrefixChatRequest, Receipt, Worker

GENERATION = Generation("m", Options(), "ns", "sampled", True)
CHECKPOINT = Checkpoint("ab" * 16, "cd" * 16, 9, "ef" * 16, (), "http://w", datetime.now(UTC))
RECEIPT = Receipt(
    ref="ab" * 16,
    hash="cd" * 16,
    tokens=9,
    fingerprint="ef" * 16,
    proof=[],
    path="reseed",
    reason="prefix_miss",
    reused_tokens=7,
    tokenized_tokens=2,
    cached_tokens=0,
    render_ms=0.1,
    tokenize_ms=0.1,
    worker=Worker("w", "e"),
    sampled_reused=4,
    seed=b"\x00\xff ids",
)


class Plugin:
    """Answers every turn with one finished chunk and a receipt; keeps what was asked."""

    def __init__(self) -> None:
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        self.receipt = RECEIPT

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.paths.append(request.url.path)
        self.bodies.append(request.content)
        chunk = json.dumps({"choices": [{"delta": {"content": "hi"}, "finish_reason": "stop"}]})
        receipt = msgspec.json.encode(self.receipt).decode()
        events = f"data: {chunk}\n\nevent: prefix\ndata: {receipt}\n\ndata: [DONE]\n\n"
        return httpx.Response(200, text=events, headers={"content-type": "text/event-stream"})

    def asked(self) -> PrefixChatRequest:
        return msgspec.json.decode(self.bodies[-1], type=PrefixChatRequest)


@pytest.fixture
def plugin() -> Plugin:
    return Plugin()


@pytest_asyncio.fixture
async def worker(plugin: Plugin) -> AsyncIterator[VllmWorker]:
    async with httpx.AsyncClient(transport=httpx.MockTransport(plugin)) as http:
        yield VllmWorker("http://w", None, http)


async def outcome(worker: VllmWorker, prompt: Margin | Whole, **changes: Any) -> Outcome:
    async with worker.answer(replace(GENERATION, **changes), prompt) as answer:
        async for _ in answer.deltas():
            pass
        return answer.outcome


async def test_a_lost_reference_takes_its_seeds_along(worker: VllmWorker, plugin: Plugin) -> None:
    seeds = (b"", bytes(range(256)))
    await outcome(worker, Whole((), (), 60, "prefix_miss", lost=True, seeds=seeds))
    reseed = plugin.asked().reseed
    assert reseed is not None
    assert (reseed.reason, reseed.seeds) == ("prefix_miss", [*seeds])
    assert json.loads(plugin.bodies[-1])["reseed"]["seeds"] == [base64.b64encode(s).decode() for s in seeds]


async def test_a_conversation_that_lost_nothing_does_not_reseed(worker: VllmWorker, plugin: Plugin) -> None:
    await outcome(worker, Whole((), (), 60, "new_conversation"))
    assert plugin.asked().reseed is None


@pytest.mark.parametrize(
    "prompt", [Margin(CHECKPOINT, (), (), 60), Whole((), (), 60, "x")], ids=["ref", "all"]
)
@pytest.mark.parametrize("keep_ids", [True, False])
@pytest.mark.parametrize("policy", ["sampled", "canonical"])
async def test_policy_and_seed_are_asked_for_as_set(
    worker: VllmWorker, plugin: Plugin, prompt: Margin | Whole, keep_ids: bool, policy: str
) -> None:
    await outcome(worker, prompt, keep_ids=keep_ids, policy=policy)
    asked = plugin.asked()
    assert asked.commit is not None
    assert (asked.commit.ttl_s, asked.commit.seed, asked.policy) == (60, keep_ids, policy)


async def test_a_turn_that_keeps_nothing_asks_for_no_seed(worker: VllmWorker, plugin: Plugin) -> None:
    await outcome(worker, Margin(CHECKPOINT, (), (), None))
    assert plugin.asked().commit is None


async def test_the_receipts_seed_and_counts_are_the_outcomes(worker: VllmWorker, plugin: Plugin) -> None:
    got = await outcome(worker, Whole((), (), 60, "prefix_miss", lost=True))
    assert (got.path, got.reused_tokens, got.tokenized_tokens) == ("reseed", 7, 2)
    assert (got.sampled_reused, got.seed) == (4, RECEIPT.seed)
    plugin.receipt = msgspec.structs.replace(RECEIPT, seed=None)
    assert (await outcome(worker, Whole((), (), 60, "x"))).seed is None


async def test_without_prefixes_vllms_own_route_gets_nothing_of_them(
    worker: VllmWorker, plugin: Plugin
) -> None:
    await outcome(worker, Whole((), (), None, "no_plugin", lost=True, seeds=(b"ids",)))
    assert plugin.paths == ["/v1/chat/completions"]
    assert not {"reseed", "policy", "commit"} & json.loads(plugin.bodies[-1]).keys()


@pytest.mark.parametrize(
    ("status", "code", "raised"), [(409, "quarantined", PrefixMissed), (404, "gone", NoPlugin)]
)
async def test_what_cannot_be_counted_by_reference_is_counted_by_vllms_own_route(
    status: int, code: str, raised: type[Exception]
) -> None:
    asked = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if request.url.path == "/tokenize":
            return httpx.Response(200, json={"count": 7})
        return httpx.Response(status, json={"error": {"code": code, "message": "no"}})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        worker = VllmWorker("http://w", None, http)
        worker._refusal = None
        assert await worker.count(GENERATION, Whole((), (), None, "x")) == 7
        worker._refusal = None
        with pytest.raises(raised):
            await worker.count(GENERATION, Margin(CHECKPOINT, (), (), None))
    assert asked == ["/prefix/v1/render", "/tokenize", "/prefix/v1/render"]


def chunks(*choices: dict[str, Any]) -> httpx.MockTransport:
    lines = "".join(f"data: {json.dumps({'choices': [choice]})}\n\n" for choice in choices)
    kind = {"content-type": "text/event-stream"}
    return httpx.MockTransport(lambda _: httpx.Response(200, text=f"{lines}data: [DONE]\n\n", headers=kind))


async def answered(transport: httpx.MockTransport, options: Options) -> list[Delta]:
    async with httpx.AsyncClient(transport=transport) as http:
        worker = VllmWorker("http://w", None, http)
        generation = replace(GENERATION, options=options)
        async with worker.answer(generation, Whole((), (), None, "x")) as answer:
            return [delta async for delta in answer.deltas()]


def tool_call(index: int, name: str | None, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"delta": {"tool_calls": [{"index": index, "id": name and f"c{index}", "function": function}]}}


async def test_a_custom_tools_input_comes_out_of_its_arguments() -> None:
    shell = {"type": "custom", "name": "sh", "format": {"type": "text"}}
    function = {"type": "function", "name": "f", "parameters": None, "strict": True}
    transport = chunks(
        tool_call(0, "sh", '{"inp'),
        tool_call(0, None, 'ut": "ls'),
        tool_call(0, None, ' -l"}'),
        tool_call(1, "f", '{"input": 1}'),
        {"delta": {}, "finish_reason": "stop"},
    )
    calls = [
        c for delta in await answered(transport, Options(tools=(shell, function))) for c in delta.tool_calls
    ]
    assert [(c.index, c.name, c.arguments, c.custom) for c in calls] == [
        (0, "sh", "", True),
        (0, None, "ls", True),
        (0, None, " -l", True),
        (1, "f", '{"input": 1}', False),
    ]


async def test_log_probabilities_have_their_bytes() -> None:
    top = {"token": "é", "logprob": -1.0, "bytes": None}
    content = [{**top, "top_logprobs": [top]}]
    transport = chunks({"delta": {"content": "é"}, "logprobs": {"content": content}, "finish_reason": "stop"})
    (delta,) = await answered(transport, Options(top_logprobs=1))
    named = {"token": "é", "logprob": -1.0, "bytes": [195, 169]}
    assert delta.logprobs == ({**named, "top_logprobs": [named]},)


@pytest.mark.parametrize("reason", ["abort", "error"])
async def test_an_answer_that_vllm_aborts_has_failed(reason: str) -> None:
    with pytest.raises(EngineError, match="aborted"):
        await answered(chunks({"delta": {"content": "x"}, "finish_reason": reason}), Options())
