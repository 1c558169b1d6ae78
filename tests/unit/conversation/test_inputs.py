"""References, sealed reasoning, and calls with their outputs, before anything is planned."""

from typing import Any

import pytest

from app.conversation.inputs import check_calls, resolve
from app.conversation.records import DEFAULT_TENANT, Item, TenantId
from app.conversation.sealing import Sealing
from app.errors import InvalidEncryptedContent, InvalidRequest, NotFound
from app.store.memory import MemoryResponseStore
from tests.unit.conversation.test_turns import Chat, request


def call(call_id: str, kind: str = "function_call", **more: Any) -> Item:
    return {"type": kind, "call_id": call_id, **more}


def output(call_id: str, kind: str = "function_call_output") -> Item:
    return {"type": kind, "call_id": call_id, "output": [{"type": "input_text", "text": "ok"}]}


USER: Item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "q"}]}


@pytest.mark.parametrize(
    ("before", "items"),
    [
        ([], [USER]),
        ([call("1")], [output("1"), USER]),
        ([call("1"), call("2")], [output("2"), output("1")]),
        ([], [call("1"), output("1"), call("1"), output("1")]),
        ([call("1", "custom_tool_call")], [output("1", "custom_tool_call_output")]),
        ([call("1", status="incomplete")], [USER]),
        ([call("1", status="incomplete")], [output("1"), USER]),
    ],
)
def test_calls_that_were_answered(before: list[Item], items: list[Item]) -> None:
    check_calls(before, items)


@pytest.mark.parametrize(
    ("before", "items", "param", "named"),
    [
        ([], [USER, output("1")], "input[1].call_id", "'1'"),
        ([call("1")], [output("1"), output("1")], "input[1].call_id", "'1'"),
        ([call("1")], [USER], "input", "'1'"),
        ([], [call("1"), call("1"), output("1")], "input[1].call_id", "'1'"),
        ([], [output("1"), call("1")], "input[0].call_id", "'1'"),
        (
            [call("1")],
            [output("1", "custom_tool_call_output")],
            "input[0].call_id",
            "custom_tool_call_output",
        ),
    ],
)
def test_calls_and_outputs_that_do_not_match(
    before: list[Item], items: list[Item], param: str, named: str
) -> None:
    with pytest.raises(InvalidRequest, match=named) as caught:
        check_calls(before, items)
    assert caught.value.param == param


async def test_a_reference_is_what_it_names_and_another_tenants_is_unknown() -> None:
    chat = Chat()
    (said,) = (await chat.response(request()))["output"]
    reference = {"type": "item_reference", "id": said["id"]}
    sealing = Sealing(chat.store)
    assert await resolve([USER, reference], chat.store, DEFAULT_TENANT, sealing) == (USER, said)
    for tenant, item_id in ((TenantId("other"), said["id"]), (DEFAULT_TENANT, "msg_unknown")):
        with pytest.raises(NotFound, match=item_id) as caught:
            await resolve([USER, {**reference, "id": item_id}], chat.store, tenant, sealing)
        assert caught.value.param == "input[1].id"


async def test_sealed_reasoning_is_its_text_again_and_nothing_else_passes() -> None:
    store = MemoryResponseStore()
    sealing = Sealing(store)
    sealed = (await sealing.sealer()).seal(DEFAULT_TENANT, "hm")
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed}
    (opened,) = await resolve([item], store, DEFAULT_TENANT, sealing)
    content = [{"type": "reasoning_text", "text": "hm"}]
    assert opened == {"type": "reasoning", "id": "rs_1", "summary": [], "content": content}
    changed = sealed[:-2] + ("AA" if sealed[-2:] != "AA" else "BB")
    for tenant, forged in ((TenantId("other"), sealed), (DEFAULT_TENANT, changed)):
        with pytest.raises(InvalidEncryptedContent) as caught:
            await resolve([USER, {**item, "encrypted_content": forged}], store, tenant, sealing)
        assert caught.value.param == "input[1].encrypted_content"
