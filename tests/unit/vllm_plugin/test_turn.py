"""One turn in the worker, on a scripted renderer: references, misses, what is kept."""

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.prefix.wire import (
    PROTOCOL,
    SECRET_HEADER,
    Commit,
    Common,
    PrefixChatRequest,
    Receipt,
    Reference,
    Reseed,
    Worker,
)
from app.vllm_plugin.access import Refused, on_refused
from app.vllm_plugin.references import PrefixMiss, resolve
from app.vllm_plugin.routes import build_router
from app.vllm_plugin.seam import ChatCompletionRequest
from app.vllm_plugin.store import PrefixStore
from app.vllm_plugin.template import GenerationPrompts
from app.vllm_plugin.tokenization import BoundaryTokenizer
from app.vllm_plugin.turn import Turn
from tests.unit.vllm_plugin.test_tokenization import END, START, build, plain

WORKER = Worker("w", "e")


@dataclasses.dataclass(frozen=True)
class Params:
    """As much of vLLM's ChatParams as a turn looks at."""

    chat_template: str | None = None
    chat_template_content_format: str = "string"
    chat_template_kwargs: dict[str, Any] = dataclasses.field(
        default_factory=lambda: {"add_generation_prompt": True}
    )


def chatml(messages: list[dict[str, Any]], kwargs: dict[str, Any]) -> str:
    text = "".join(f"{START}{m['role']}\n{m['content']}{END}\n" for m in messages)
    return text + f"{START}assistant\n" * kwargs["add_generation_prompt"]


def dropping_thoughts(messages: list[dict[str, Any]], kwargs: dict[str, Any]) -> str:
    last = max(i for i, m in enumerate(messages) if m["role"] == "user")
    kept = [
        {**m, "content": m["content"] if i > last else m["content"].replace("THOUGHT ", "")}
        for i, m in enumerate(messages)
    ]
    return chatml(kept, kwargs)


class Plugin:
    """Turns against one store, with a template that may be exchanged."""

    def __init__(self) -> None:
        self.tokenizer = BoundaryTokenizer(build(plain(START), plain(END)))
        self.store = PrefixStore(1 << 20, clock=lambda: self.now)
        self.now = 0.0
        self.quarantined: set[str] = set()
        self.template: Callable[..., str] = chatml
        self.params = Params()

    async def turn(
        self,
        contents: list[tuple[str, str]],
        after: Receipt | None = None,
        *,
        namespace: str = "n",
        finished: bool = True,
        reference: Reference | None = None,
        seeds: list[bytes] | None = None,
        compare: Receipt | None = None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> tuple[Receipt, list[int]]:
        prefix = reference or (after and _reference(after))
        messages: list[Any] = [{"role": role, "content": content} for role, content in contents]
        request = PrefixChatRequest(
            protocol=PROTOCOL,
            namespace=namespace,
            chat={"model": "m"},
            messages=messages,
            prefix=prefix,
            commit=Commit(ttl_s=60, seed=True),
            reseed=None if seeds is None else Reseed("prefix_miss", seeds),
            compare=compare and compare.ref,
        )
        chat = ChatCompletionRequest(model="m", messages=messages)
        base = resolve(self.store, request)
        turn = Turn(request, chat, base, self.store, self.tokenizer, GenerationPrompts(), self.quarantined)

        async def render(all_messages: list[Any], params: Any) -> tuple[Any, dict[str, Any]]:
            return all_messages, {"prompt": self.template(all_messages, params.chat_template_kwargs)}

        conversation, prompt = await turn.render_ids(chat.messages, self.params, render)
        whole = self.tokenizer.encode(self.template(conversation, self.params.chat_template_kwargs))
        assert prompt["prompt_token_ids"] == whole
        turn.observed.finished = finished
        meanwhile()
        return await turn.receipt(WORKER), prompt["prompt_token_ids"]


def _reference(receipt: Receipt) -> Reference:
    assert receipt.ref is not None
    return Reference(receipt.ref, receipt.hash, receipt.tokens, receipt.fingerprint)


@pytest.fixture
def plugin() -> Plugin:
    return Plugin()


async def test_continue_branch_and_continue_again(plugin: Plugin) -> None:
    first, _ = await plugin.turn([("user", "hello")])
    second, _ = await plugin.turn([("assistant", "hi"), ("user", "more")], first)
    branch, _ = await plugin.turn([("assistant", "hi"), ("user", "other")], first)
    third, ids = await plugin.turn([("assistant", "ok"), ("user", "bye")], second)
    assert [r.path for r in (first, second, branch, third)] == ["full", "hit", "hit", "hit"]
    assert third.reused_tokens + third.tokenized_tokens == third.tokens == len(ids)
    assert third.reused_tokens == second.proof[-1].tokens > first.tokens
    assert len(plugin.store) == 4


async def test_a_rewritten_history_is_a_rewind(plugin: Plugin) -> None:
    plugin.template = dropping_thoughts
    first, _ = await plugin.turn([("user", "hello"), ("assistant", "THOUGHT hi"), ("tool", "result")])
    second, _ = await plugin.turn([("assistant", "so"), ("user", "next")], first)
    third, _ = await plugin.turn([("assistant", "so"), ("user", "next")], second)
    assert (second.path, second.reason) == ("rewind", "history_rewritten")
    assert 0 < second.reused_tokens < first.tokens
    assert third.path == "hit"


async def test_a_template_that_changes_at_the_start_is_a_rewind_that_finds_the_rest_again(
    plugin: Plugin,
) -> None:
    first, _ = await plugin.turn([("user", "hello")])
    plugin.template = lambda messages, kwargs: f"today is friday\n{chatml(messages, kwargs)}"
    second, _ = await plugin.turn([("assistant", "hi"), ("user", "more")], first)
    assert second.path == "rewind"
    # All but what begins with the changed text.
    assert second.reused_tokens >= first.proof[-1].tokens - first.proof[0].tokens
    assert (await plugin.turn([("assistant", "x"), ("user", "y")], second))[0].path == "hit"


async def test_the_same_messages_on_another_day_get_another_reference(plugin: Plugin) -> None:
    monday, _ = await plugin.turn([("user", "hello")])
    plugin.template = lambda messages, kwargs: f"tuesday\n{chatml(messages, kwargs)}"
    tuesday, _ = await plugin.turn([("user", "hello")])
    assert monday.ref != tuesday.ref
    assert (await plugin.turn([("assistant", "hi"), ("user", "more")], tuesday))[0].path == "hit"


async def test_other_arguments_of_the_template_are_no_obstacle(plugin: Plugin) -> None:
    first, _ = await plugin.turn([("user", "hello")])
    plugin.params = Params(chat_template_kwargs={"add_generation_prompt": True, "unused": 1})
    second, _ = await plugin.turn([("assistant", "hi"), ("user", "more")], first)
    assert second.path == "hit"
    assert second.fingerprint != first.fingerprint


async def test_a_whole_history_continues_what_is_resident_of_it(plugin: Plugin) -> None:
    history = [("user", "hello"), ("assistant", "hi"), ("user", "more")]
    first, _ = await plugin.turn(history[:1])
    second, _ = await plugin.turn(history[1:], first)
    stateless, _ = await plugin.turn([*history, ("assistant", "ok"), ("user", "bye")])
    assert (stateless.path, stateless.reason) == ("hit", "found_by_content")
    assert stateless.reused_tokens == second.proof[-1].tokens
    again, _ = await plugin.turn(history)
    assert (again.path, again.ref) == ("hit", second.ref)
    assert (await plugin.turn(history, namespace="other"))[0].path == "full"
    plugin.params = Params(chat_template_kwargs={"add_generation_prompt": True, "other": 1})
    assert (await plugin.turn(history))[0].path == "full"
    plugin.params, plugin.now = Params(), 61
    assert (await plugin.turn(history))[0].path == "full"


async def test_only_a_finished_turn_is_kept(plugin: Plugin) -> None:
    receipt, _ = await plugin.turn([("user", "hello")], finished=False)
    assert (receipt.ref, receipt.proof, len(plugin.store)) == (None, [], 0)


async def test_each_miss_has_its_code(plugin: Plugin) -> None:
    first, _ = await plugin.turn([("user", "hello")])
    good = _reference(first)

    async def code(reference: Reference, namespace: str = "n") -> str:
        with pytest.raises(PrefixMiss) as caught:
            await plugin.turn([("user", "x")], reference=reference, namespace=namespace)
        return caught.value.code

    def but(**changes: Any) -> Reference:
        return Reference(**{**{f: getattr(good, f) for f in good.__struct_fields__}, **changes})

    assert await code(but(ref="00" * 16)) == "prefix_miss"
    assert await code(but(ref="not hex")) == "prefix_miss"
    assert await code(but(hash="00" * 16)) == "hash_mismatch"
    assert await code(but(tokens=good.tokens + 1)) == "hash_mismatch"
    assert await code(but(fingerprint="other")) == "fingerprint_mismatch"
    assert await code(good, namespace="other") == "namespace_mismatch"
    plugin.now = 61
    assert await code(good) == "prefix_expired"


LONG = " ".join(str(number * 7919 % 1000) for number in range(400))


def seed(receipt: Receipt) -> bytes:
    assert receipt.seed is not None
    return receipt.seed


async def test_another_process_goes_on_from_seeds_and_from_its_own_again(plugin: Plugin) -> None:
    history: list[tuple[str, str]] = [("user", LONG)]
    first, _ = await plugin.turn(history)
    second, _ = await plugin.turn([("assistant", "hi"), ("user", "more")], first)
    history += [("assistant", "hi"), ("user", "more"), ("assistant", "ok"), ("user", "bye")]
    seeds = [seed(first), seed(second)]
    for _ in range(3):  # Each time the process is another one, which knows nothing.
        again, _ = await Plugin().turn(history, seeds=seeds)
        assert (again.path, again.reason) == ("reseed", "prefix_miss")
        assert again.tokenized_tokens < 60
        # It does not repeat what the others hold.
        assert len(seed(again)) < len(seed(first)) / 2
        seeds.append(seed(again))
        history += [("assistant", "and"), ("user", "so on")]


async def test_a_seed_does_not_lean_on_another_conversations_prompt(plugin: Plugin) -> None:
    opening = [("user", LONG)]
    await plugin.turn(opening)
    same, _ = await plugin.turn(opening)
    assert (same.path, same.reason) == ("hit", "found_by_content")
    again, _ = await Plugin().turn([*opening, ("assistant", "hi"), ("user", "more")], seeds=[seed(same)])
    assert again.tokenized_tokens < 60


async def test_a_seed_of_text_that_has_changed_is_used_as_far_as_it_holds(plugin: Plugin) -> None:
    first, _ = await plugin.turn([("user", "hello"), ("assistant", "hi"), ("user", "more")])
    other, _ = await Plugin().turn(
        [("user", "hello"), ("assistant", "no"), ("user", "more")], seeds=[seed(first)]
    )
    assert 0 < other.reused_tokens < first.tokens
    nothing, _ = await Plugin().turn([("user", "hello")], seeds=[b"junk"])
    assert (nothing.path, nothing.reused_tokens) == ("reseed", 0)


async def test_nothing_goes_on_from_what_is_in_quarantine(plugin: Plugin) -> None:
    first, _ = await plugin.turn([("user", "hello")])
    plugin.quarantined.add(first.fingerprint)
    margin = [("assistant", "hi"), ("user", "more")]
    for params in (plugin.params, Params(chat_template_kwargs={"add_generation_prompt": True, "other": 1})):
        plugin.params = params
        with pytest.raises(PrefixMiss) as caught:
            await plugin.turn(margin, first)
        assert caught.value.code == "quarantined"
    # Nor from seeds, which do not say where they come from.
    again, _ = await plugin.turn([("user", "hello"), *margin], seeds=[seed(first)])
    assert (again.path, again.reused_tokens) == ("reseed", 0)


async def test_a_turn_that_adds_nothing_has_no_seed(plugin: Plugin) -> None:
    first, _ = await plugin.turn([("user", "hello")])
    again, _ = await plugin.turn([], first)
    assert (again.ref, again.seed) == (first.ref, None)


async def test_seeds_of_other_rules_are_not_taken(plugin: Plugin) -> None:
    first, _ = await plugin.turn([("user", "hello")])
    other = Plugin()
    other.tokenizer = BoundaryTokenizer(build(plain(START), plain(END, rstrip=True)))
    assert other.tokenizer.definition_hash != plugin.tokenizer.definition_hash
    again, _ = await other.turn([("user", "hello"), ("user", "more")], seeds=[seed(first)])
    assert again.reused_tokens == 0


ASKED = [("user", "hello"), ("assistant", "hi"), ("user", "more")]


def counted(plugin: Plugin, text: str) -> int:
    return len(plugin.tokenizer.encode(text))


async def test_a_turn_is_compared_with_another_prompt_up_to_its_generation_prompt(plugin: Plugin) -> None:
    first, ids = await plugin.turn(ASKED)
    messages = len(ids) - counted(plugin, f"{START}assistant\n")
    assert first.common is None, "it named none"
    same, _ = await plugin.turn(ASKED, compare=first)
    assert same.common == Common(len(ids), messages)
    margin, _ = await plugin.turn([("assistant", "ok"), ("user", "bye")], first, compare=first)
    # The answer follows the generation prompt, which therefore is shared as well.
    assert margin.common == Common(len(ids), messages)
    shorter, kept = await plugin.turn(ASKED[:1], compare=first)
    assert shorter.common == Common(len(kept), messages)


async def test_a_change_in_the_middle_ends_what_is_common(plugin: Plugin) -> None:
    first, ids = await plugin.turn(ASKED)
    edited, _ = await plugin.turn([*ASKED[:1], ("assistant", "no"), *ASKED[2:]], compare=first)
    upto = counted(plugin, f"{START}user\nhello{END}\n{START}assistant\n")
    assert edited.common == Common(upto, len(ids) - counted(plugin, f"{START}assistant\n"))
    plugin.template = lambda messages, kwargs: f"today is friday\n{chatml(messages, kwargs)}"
    rewritten, _ = await plugin.turn([("assistant", "ok")], first, compare=first)
    assert rewritten.common is not None
    assert rewritten.common.tokens == 0


async def test_only_what_may_be_named_is_compared_with(plugin: Plugin) -> None:
    first, _ = await plugin.turn(ASKED)
    other, _ = await plugin.turn(ASKED, compare=first, namespace="other")
    assert (other.path, other.common) == ("full", None), "as if it were unknown"
    unknown = msgspec.structs.replace(first, ref="00" * 16)
    assert (await plugin.turn(ASKED, compare=unknown))[0].common is None
    plugin.now = 61
    assert (await plugin.turn(ASKED, compare=first))[0].common is None


async def test_what_is_evicted_while_the_turn_runs_is_compared_with_all_the_same(plugin: Plugin) -> None:
    first, ids = await plugin.turn(ASKED)
    await plugin.turn([("assistant", "ok")], first)

    def evict() -> None:
        plugin.store._make_room(plugin.store.budget_bytes)
        assert len(plugin.store) == 0

    second, _ = await plugin.turn([("user", "alone")], compare=first, meanwhile=evict)
    assert second.common is not None
    assert 0 < second.common.tokens < second.common.reusable < len(ids)


@pytest.mark.parametrize("compare", ["", "zz" * 16, "00" * 15, "00" * 17, "AA" * 16, 7])
def test_what_is_no_reference_is_refused_by_its_name(compare: object) -> None:
    turn = {"protocol": PROTOCOL, "namespace": "n", "chat": {}, "messages": [], "compare": compare}
    app = FastAPI()
    app.include_router(build_router("s"))
    app.add_exception_handler(Refused, on_refused)
    client = TestClient(app, headers={SECRET_HEADER: "s"})
    refused = client.post("/prefix/v1/chat", json=turn)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_request")
    assert "$.compare" in refused.json()["error"]["message"]
