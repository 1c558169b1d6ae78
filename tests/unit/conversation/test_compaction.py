"""What a compaction item stands for, what goes on as it was, and the turns that make and carry one."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from app.conversation.compaction import (
    INSTRUCTION,
    PAUSE,
    Compacted,
    expand,
    goes_on,
    kept,
    opener,
    reduced,
    request_of_summary,
    since_compaction,
    standing,
    unanswered,
)
from app.conversation.engine import Delta, Margin, PrefixMissed, Usage, Whole
from app.conversation.options import Options
from app.conversation.records import DEFAULT_TENANT, Item, Segment, TenantId
from app.conversation.sealing import Sealing
from app.engine import messages
from app.errors import EngineError, InvalidEncryptedContent, InvalidRequest
from tests.unit.conversation.test_turns import CHECKPOINT, Chat, caching, request

TOOL = {"type": "function", "name": "f", "parameters": {"type": "object"}}


def says(role: str, text: str) -> Item:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def user(text: str = "q") -> Item:
    return says("user", text)


def answer(text: str = "a") -> Item:
    return says("assistant", text)


def thought(text: str = "hm") -> Item:
    return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}


def call(call_id: str, **more: Any) -> Item:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}", **more}


def output(call_id: str) -> Item:
    text = [{"type": "input_text", "text": "ok"}]
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def compaction(summary: str, *items: Item) -> Item:
    return {"type": "compaction", "encrypted_content": Compacted(summary, items).as_json()}


def open_(item: Item) -> Compacted:
    return Compacted.of_json(item["encrypted_content"])


def texts(items: Any) -> list[str]:
    """Items in short: who said what, and what is no message by its type."""
    return [
        f"{item['role']}: {item['content'][0]['text']}" if item["type"] == "message" else item["type"]
        for item in items
    ]


def summary(text: str) -> str:
    return f"The conversation before this was replaced by its summary:\n<summary>\n{text}\n</summary>"


# What an item stands for


def test_it_stands_for_all_that_comes_before_it() -> None:
    items = [user("old"), answer(), compaction("s", user("now")), answer("then"), user("next")]
    told = f"user: {summary('s')}\n\nnow"
    assert texts(standing(items, open_)) == [told, "assistant: then", "user: next"]


def test_the_last_one_counts() -> None:
    items = [compaction("first", user("old")), answer(), compaction("last"), user("now")]
    assert texts(standing(items, open_)) == [f"user: {summary('last')}\n\nnow"]


def test_it_is_the_same_whether_or_not_what_is_before_it_is_passed_on() -> None:
    told = says("developer", "Be brief.")
    before, item = [told, user("old"), answer()], compaction("s", told, user("now"))
    assert standing([*before, item, answer()], open_) == standing([item, answer()], open_)


def test_what_it_knows_nothing_of_and_was_not_said_by_the_user_stays() -> None:
    items = [says("developer", "new rule"), user("old"), compaction("s", says("system", "rule")), user("now")]
    assert texts(standing(items, open_)) == [
        "developer: new rule",
        "system: rule",
        f"user: {summary('s')}\n\nnow",
    ]


def test_without_one_nothing_changes() -> None:
    items = [user(), answer()]
    assert standing(items, open_) == tuple(items)
    assert expand([Segment((user(),), (answer(),))], [user()], open_) == (
        (Segment((user(),), (answer(),)),),
        (user(),),
    )


def test_images_go_on_beside_the_summary() -> None:
    image = {"type": "input_image", "image_url": "data:,", "detail": "auto"}
    seen = {"type": "message", "role": "user", "content": [image]}
    (merged,) = standing([compaction("s", seen)], open_)
    assert merged["content"] == [{"type": "input_text", "text": summary("s")}, image]


def test_a_summary_before_a_call_is_a_message_of_its_own() -> None:
    items = [compaction("s", call("1")), output("1")]
    assert texts(standing(items, open_)) == [f"user: {summary('s')}", "function_call", "function_call_output"]


# In a chain of turns


def test_a_history_begins_with_the_last_compaction() -> None:
    history = [
        Segment((user("1"),), (answer("1"),)),
        Segment((user("2"),), (compaction("s", user("2")), thought(), answer("2"))),
        Segment((user("3"),), (answer("3"),)),
    ]
    found, new = expand(history, [user("4")], open_)
    assert [texts(segment.input_items) for segment in found] == [[f"user: {summary('s')}\n\n2"], ["user: 3"]]
    assert [texts(segment.output_items) for segment in found] == [
        ["reasoning", "assistant: 2"],
        ["assistant: 3"],
    ]
    assert new == (user("4"),)


def test_one_in_the_input_of_a_turn_keeps_the_turns_after_it() -> None:
    history = [
        Segment((user("1"),), (answer("1"),)),
        Segment((user("x"), compaction("s"), user("2")), (answer("2"),)),
    ]
    found, new = expand(history, [user("3")], open_)
    assert [texts(s.input_items) for s in found] == [[f"user: {summary('s')}\n\n2"]]
    assert [texts(s.output_items) for s in found] == [["assistant: 2"]]
    assert new == (user("3"),)


def test_one_in_the_new_input_leaves_no_history_but_what_it_does_not_know() -> None:
    history = [Segment((says("developer", "rule"), user("1")), (answer("1"),))]
    found, new = expand(history, [compaction("s"), user("2")], open_)
    assert (found, texts(new)) == ((), ["developer: rule", f"user: {summary('s')}\n\n2"])


@pytest.mark.parametrize("later", [0, 1])
def test_one_that_nothing_was_answered_to_goes_with_what_is_said_next(later: int) -> None:
    """Two messages of the user in a row are more than some templates allow."""
    turns = [Segment((user("2"),), (answer("2"),))][:later]
    history = [Segment((user("1"),), (answer("1"), compaction("s"))), *turns]
    found, new = expand(history, [user("3")], open_)
    roles = [message["role"] for message in messages.whole(None, found, new)]
    assert roles == ["user", "assistant", "user"][: 2 * later + 1]
    first = texts([*(i for s in found for i in s.input_items), *new])[0]
    assert first == f"user: {summary('s')}\n\n{3 - later}"


def test_what_is_since() -> None:
    assert since_compaction([thought(), compaction("s"), answer()]) == (answer(),)
    assert since_compaction([thought(), answer()]) == (thought(), answer())


# What goes on as it was


@pytest.mark.parametrize(
    ("items", "start"),
    [
        ([user(), answer(), user()], 2),
        ([user(), answer()], 2),
        ([user(), user()], 0),
        ([user(), answer(), user(), user()], 2),
        ([user(), thought(), call("1"), output("1")], 1),
        ([user(), thought(), call("1"), output("1"), thought(), call("2"), output("2")], 4),
        ([user(), call("1"), call("2"), output("1"), output("2"), user()], 1),
        ([user(), call("1"), thought(), call("2"), output("2"), output("1")], 1),
        ([user(), call("1"), output("1"), thought(), answer(), call("2")], 3),
        ([user(), call("1", status="incomplete"), answer()], 3),
        ([user(), call("1"), output("1"), answer(), call("1"), output("1")], 3),
    ],
)
def test_no_cut_parts_a_call_from_its_output(items: list[Item], start: int) -> None:
    assert goes_on(items) == start


def test_an_approval_goes_on_with_what_it_approves() -> None:
    asked = {"type": "mcp_approval_request", "id": "mcpr_1"}
    said = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
    assert goes_on([user(), answer(), user(), thought(), asked, said]) == 3


def test_whose_words_are_kept() -> None:
    items = [says("system", "rule"), user("1"), answer(), user("2"), thought(), call("1"), output("1")]
    assert texts(kept(items, 4))[:2] == ["system: rule", "user: 2"]
    assert texts(kept([*items[:4], user("3")], 4)) == ["system: rule", "user: 3"]
    assert texts(kept(items[:3], 3)) == ["system: rule"]


def test_the_model_is_asked_after_its_own_words() -> None:
    assert texts(request_of_summary([user(), answer()])) == [f"user: {INSTRUCTION}"]
    asked = texts(request_of_summary([user(), call("1"), output("1")]))
    assert asked == [f"assistant: {PAUSE}", f"user: {INSTRUCTION}"]
    assert unanswered([answer(), output("1"), user(), user()]) == 2


# Turns


class Long(Chat):
    """A chat of three items and one more to come; its worker says what it is asked for a summary."""

    async def begun(self, **changes: Any) -> dict[str, Any]:
        first = await self.response(request(**changes))
        return await self.response(request(first["id"], **changes))

    async def opened(self, item: Item) -> Compacted:
        return (await opener(Sealing(self.store), DEFAULT_TENANT))(item)

    def margin(self) -> Margin:
        prompt = self.worker.prompts[-1]
        assert isinstance(prompt, Margin)
        return prompt

    def whole(self) -> list[str]:
        prompt = self.worker.prompts[-1]
        assert isinstance(prompt, Whole)
        sides = [side for s in prompt.history for side in (s.input_items, s.output_items)]
        return texts([item for side in (*sides, prompt.new_input) for item in side])


@pytest.fixture
def chat() -> Long:
    return Long()


TOLD = f"user: {summary('hi')}\n\nq"


async def test_a_turn_at_its_threshold_is_compacted_and_gone_on_from_by_reference(chat: Long) -> None:
    parent = await chat.begun()
    # By reference, the worker counts the margin's items: the answer before, and the question.
    below = await chat.response(request(parent["id"], compact_at=3))
    assert ([i["type"] for i in below["output"]], caching(below)) == (["message"], ("hit", None))
    chat.worker.usage = Usage(input_tokens=7, output_tokens=2)
    events = await chat.turn(request(parent["id"], compact_at=2))
    at = events[-1]["response"]
    assert [i["type"] for i in at["output"]] == ["compaction", "message"]
    assert caching(at) == ("full", "compacted")
    assert at["caching"]["compaction"] == {
        "path": "hit",
        "reason": None,
        "reused_tokens": 3,
        "tokenized_tokens": 2,
        "sampled_reused": 1,
        "input_tokens": 7,
        "output_tokens": 2,
    }
    assert (at["usage"]["input_tokens"], at["usage"]["output_tokens"]) == (14, 4)
    assert chat.whole() == [TOLD]
    assert [e["type"] for e in events[2:5]] == [
        "response.output_item.added",
        "response.compaction.compacting",
        "response.output_item.done",
    ]
    assert events[2]["item"]["encrypted_content"] == ""
    asked = chat.worker.prompts[-2]
    assert isinstance(asked, Margin)
    assert (texts(asked.new_input), asked.keep_s) == ([f"user: {INSTRUCTION}"], None)
    assert await chat.opened(at["output"][0]) == Compacted("hi", request().input)
    after = await chat.response(request(at["id"]))
    assert caching(after) == ("hit", None)
    assert texts(chat.margin().parent_output) == ["assistant: hi"]
    chat.worker.misses = [PrefixMissed("prefix_miss")]
    again = await chat.response(request(after["id"]))
    assert caching(again) == ("reseed", "prefix_miss")
    assert chat.whole() == [TOLD, "assistant: hi", "user: q", "assistant: hi", "user: q"]


async def test_where_nothing_was_answered_there_is_nothing_to_compact(chat: Long) -> None:
    first = await chat.response(request(compact_at=1))
    assert ([i["type"] for i in first["output"]], caching(first)) == (
        ["message"],
        ("full", "new_conversation"),
    )


async def test_a_summary_is_plain_text_from_the_same_prompt(chat: Long) -> None:
    options = Options(
        instructions="be kind",
        tools=(TOOL,),
        tool_choice="required",
        max_output_tokens=5,
        text_format={"type": "json_object"},
        top_logprobs=2,
        extras={"stop": ["x"], "chat_template_kwargs": {"a": 1}},
    )
    parent = await chat.begun(options=options)
    await chat.response(request(parent["id"], options=options, compact_at=1))
    asked = chat.worker.generations[-2].options
    assert asked == Options(
        instructions="be kind",
        tools=(TOOL,),
        tool_choice="none",
        temperature=0,
        max_output_tokens=12,
        extras={"chat_template_kwargs": {"a": 1}},
    )
    assert chat.worker.generations[-1].options == options


async def test_a_loop_of_calls_is_compacted_up_to_its_last_step(chat: Long) -> None:
    given = (user("task"), thought("old"), call("1"), output("1"), thought("new"), call("2"), output("2"))
    response = await chat.response(request(input=given, compact_at=1))
    assert [i["type"] for i in response["output"]] == ["compaction", "message"]
    assert (await chat.opened(response["output"][0])).kept == (user("task"), *given[4:])
    asked = chat.worker.prompts[-2]
    assert isinstance(asked, Whole)
    assert texts(asked.new_input)[-2:] == [f"assistant: {PAUSE}", f"user: {INSTRUCTION}"]
    assert chat.whole() == [
        f"user: {summary('hi')}\n\ntask",
        "reasoning",
        "function_call",
        "function_call_output",
    ]


async def test_a_client_that_carries_its_items_carries_the_compaction(chat: Long) -> None:
    carried = [user("1"), answer("1"), user("2")]
    first = await chat.response(request(input=tuple(carried), compact_at=1, store=False))
    carried += [*first["output"], user("3")]
    second = await chat.response(request(input=tuple(carried), store=False))
    assert caching(second) == ("full", "compacted")
    prompt = chat.whole()
    assert prompt == [f"user: {summary('hi')}\n\n2", "assistant: hi", "user: 3"]
    await chat.response(request(input=tuple(carried[3:]), store=False))
    assert chat.whole() == prompt


async def test_one_in_the_input_supersedes_the_parent(chat: Long) -> None:
    parent = await chat.begun()
    (item,) = (await chat.turns.compact(request(parent["id"], input=(), compact=True), DEFAULT_TENANT))[
        "output"
    ]
    new = await chat.response(request(parent["id"], input=(item, user("now"))))
    assert caching(new) == ("full", "compacted")
    assert chat.whole() == [f"user: {summary('hi')}\n\nnow"]
    after = await chat.response(request(new["id"]))
    assert caching(after) == ("hit", None)
    assert texts(chat.margin().parent_output) == ["assistant: hi"]


async def test_compacting_again_does_not_carry_the_old_summary_on(chat: Long) -> None:
    parent = await chat.begun()
    first = await chat.response(request(parent["id"], compact_at=1))
    chat.worker.deltas = (Delta(text="newer"), Delta(finish_reason="stop"))
    second = await chat.response(request(first["id"], input=(user("now"),), compact_at=1))
    assert await chat.opened(second["output"][0]) == Compacted("newer", (user("now"),))
    # The first is in the prompt that the second was asked for with.
    assert isinstance(chat.worker.prompts[-2], Margin)
    assert chat.whole() == [f"user: {summary('newer')}\n\nnow"]


async def test_thoughts_will_do_where_the_model_says_nothing_else(chat: Long) -> None:
    parent = await chat.begun()
    chat.worker.deltas = (Delta(reasoning="so"), Delta(finish_reason="length"))
    made = await chat.turns.compact(request(parent["id"], input=(), compact=True), DEFAULT_TENANT)
    assert (await chat.opened(made["output"][0])).summary == "so"
    chat.worker.deltas = (Delta(text=" \n"), Delta(finish_reason="stop"))
    with pytest.raises(EngineError, match="no summary"):
        await chat.turns.compact(request(parent["id"], input=(), compact=True), DEFAULT_TENANT)
    assert chat.worker.running == 0


async def test_a_trigger_gives_the_compaction_and_no_answer(chat: Long) -> None:
    parent = await chat.begun()
    events = await chat.turn(request(parent["id"], input=(), compact=True))
    made = events[-1]["response"]
    assert (events[-1]["type"], [i["type"] for i in made["output"]]) == ("response.completed", ["compaction"])
    assert caching(made) == ("hit", None)
    after = await chat.response(request(made["id"]))
    assert caching(after) == ("full", "compacted")
    assert chat.whole() == [TOLD]
    assert caching(await chat.response(request(after["id"]))) == ("hit", None)


async def test_a_call_that_waits_goes_on_with_its_output(chat: Long) -> None:
    items = (user("task"), thought(), call("1"))
    made = await chat.turns.compact(request(input=items, compact=True), DEFAULT_TENANT)
    (item,) = made["output"]
    assert (await chat.opened(item)).kept == items
    await chat.response(request(input=(item, output("1"))))
    assert chat.whole()[1:] == ["reasoning", "function_call", "function_call_output"]
    with pytest.raises(InvalidRequest) as refused:
        await chat.response(request(input=(user("x"), item, output("2"))))
    assert refused.value.param == "input[2].call_id"
    with pytest.raises(InvalidRequest, match="No tool output"):
        await chat.response(request(input=(item, user("x"))))


async def test_where_there_is_nothing_at_all_a_compaction_is_refused(chat: Long) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await chat.turns.compact(request(input=(), compact=True), DEFAULT_TENANT)
    assert refused.value.param == "input"


async def test_what_does_not_fit_is_summarised_without_its_oldest_steps(chat: Long) -> None:
    loop = [item for n in "123456" for item in (thought(n), call(n), output(n))]
    items = (says("system", "rule"), user("task"), *loop)
    chat.worker.room = 12
    await chat.turns.compact(request(input=items, compact=True), DEFAULT_TENANT)
    prompt = chat.worker.prompts[-1]
    assert isinstance(prompt, Whole)
    left = [item for s in prompt.history for item in s.input_items]
    assert texts(left)[:2] == ["system: rule", "user: task"]
    assert left[2:-2] == loop[-6:]
    assert texts(left)[-1] == f"user: {INSTRUCTION}"


@pytest.mark.parametrize("stored", [True, False])
async def test_a_summary_costs_no_reference(chat: Long, stored: bool) -> None:
    parent = await chat.begun()
    at = await chat.response(request(parent["id"], compact_at=1, store=stored))
    assert [prompt.keep_s for prompt in chat.worker.prompts[-2:]] == [None, 60 if stored else None]
    assert caching(at) == ("full", "compacted")


async def test_an_expired_prefix_is_summarised_whole(chat: Long) -> None:
    chat.worker.checkpoint = replace(CHECKPOINT, expires_at=datetime.now(UTC) - timedelta(seconds=1))
    parent = await chat.begun()
    at = await chat.response(request(parent["id"], compact_at=1))
    assert caching(at) == ("full", "compacted")
    assert at["caching"]["compaction"]["path"] == "reseed"


# Seals


async def test_only_a_compaction_of_the_tenants_is_taken(chat: Long) -> None:
    sealing = Sealing(chat.store)
    content = Compacted("s", ()).as_json()
    compactions, thoughts = await sealing.compactions(), await sealing.sealer()

    async def refused(kind: str, sealed: str) -> None:
        item = {"type": kind, "id": "x_1", "summary": [], "encrypted_content": sealed}
        with pytest.raises(InvalidEncryptedContent) as error:
            await chat.response(request(input=(user(), item, user())))
        assert error.value.param == "input[1].encrypted_content"

    good = compactions.seal(DEFAULT_TENANT, content)
    assert good.startswith("mc1_")
    await refused("compaction", thoughts.seal(DEFAULT_TENANT, content))
    await refused("reasoning", good)
    await refused("compaction", "mc1_" + thoughts.seal(DEFAULT_TENANT, content).removeprefix("mr1_"))
    await refused("compaction", compactions.seal(TenantId("other"), content))
    await refused("compaction", good[:-2] + ("AA" if good[-2:] != "AA" else "BB"))
    await refused("compaction", content)
    item = {"type": "compaction", "id": "cmp_1", "encrypted_content": good}
    assert (await chat.response(request(input=(item, user()))))["status"] == "completed"


def test_what_is_known_of_a_conversation_is_what_its_last_summary_kept() -> None:
    assert reduced([compaction("s", user()), answer()], open_) == ("s", (user(), answer()))
    assert reduced([answer()], open_) == (None, (answer(),))


@pytest.mark.parametrize("items", [(user(),), (user(), answer()), (user(), answer(), user())])
async def test_roles_alternate_in_every_prompt(chat: Long, items: tuple[Item, ...]) -> None:
    (item,) = (await chat.turns.compact(request(input=items, compact=True), DEFAULT_TENANT))["output"]
    new = () if items[2:] else (user("next"),)
    await chat.response(request(input=(item, *new)))
    await chat.response(request(input=(user(), answer(), *items), compact_at=1))
    prompts = [prompt for prompt in chat.worker.prompts if isinstance(prompt, Whole)]
    for prompt in prompts:
        roles = [message["role"] for message in messages.whole(None, prompt.history, prompt.new_input)]
        assert all(one != next_ for one, next_ in pairwise(roles)) and roles[0] == "user"
