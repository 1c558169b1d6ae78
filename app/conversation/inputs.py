"""The new items of a turn: references resolved, what is sealed opened, calls matched with their outputs."""

from collections.abc import Iterable, Sequence

from app.conversation.approvals import RESPONSE, check_approvals, placed
from app.conversation.records import Item, ResponseStore, TenantId
from app.conversation.sealing import Sealing
from app.errors import InvalidRequest, NotFound

CALLS = {"function_call": "function_call_output", "custom_tool_call": "custom_tool_call_output"}
"""Kinds of calls, and of what answers them."""

_CALL_OF = {output: call for call, output in CALLS.items()}


async def resolve(
    items: Sequence[Item], store: ResponseStore, tenant: TenantId, sealing: Sealing, field: str = "input"
) -> tuple[Item, ...]:
    """Items as they are kept: each `item_reference` replaced by its item, sealed reasoning by its text. A
    compaction stays sealed, and is only tried.
    field: the request's, that holds them.

    Raises NotFound for an item that is not stored, InvalidEncryptedContent.
    """
    wanted = [item["id"] for item in items if item["type"] == "item_reference"]
    stored = await store.items(tenant, wanted) if wanted else {}
    resolved = []
    for position, item in enumerate(items):
        if item["type"] == "item_reference":
            if item["id"] not in stored:
                raise NotFound(
                    f"Item with id '{item['id']}' not found. Items of responses with `store` set to false "
                    "are not kept.",
                    param=f"{field}[{position}].id",
                )
            item = stored[item["id"]]
        elif sealed := item.get("encrypted_content"):
            place = f"{field}[{position}].encrypted_content"
            if item["type"] == "compaction":
                (await sealing.compactions()).open(tenant, sealed, param=place)
                resolved.append(item)
                continue
            text = (await sealing.sealer()).open(tenant, sealed, param=place)
            content = [{"type": "reasoning_text", "text": text}]
            item = {k: v for k, v in item.items() if k != "encrypted_content"} | {"content": content}
        resolved.append(item)
    return tuple(resolved)


def check_calls(
    before: Sequence[Item],
    items: Sequence[Item],
    pending: Sequence[Item] = (),
    *,
    first: int = 0,
    answers: bool = True,
) -> None:
    """Every call needs its output and every output its call, before the model is asked again.

    before: the parent's output, or what a compaction stands for. Older calls need no look: its input was
    checked in its own turn. pending: what was added to the conversation since. first: place of the first item
    in the request's input. answers: whether the model is asked, or calls may wait. A call that was cut off in
    the middle may have an output, and needs none. Raises InvalidRequest.
    """
    settled = answered(before)
    open_calls = {_key(c): c for c in before if c["type"] in CALLS and c["call_id"] not in settled}
    for item, place in placed(items, pending, first, "call_id"):
        if item["type"] in CALLS:
            if _key(item) in open_calls:
                message = f"Two tool calls with the call_id '{item['call_id']}' wait for their output."
                raise InvalidRequest(message, param=place)
            open_calls[_key(item)] = item
        elif (kind := _CALL_OF.get(item["type"])) and not open_calls.pop((kind, item["call_id"]), None):
            raise InvalidRequest(
                f"No tool call found for {item['type']} with call_id '{item['call_id']}'.", param=place
            )
    for call in open_calls.values() if answers else ():
        if call.get("status") != "incomplete":
            message = f"No tool output found for {call['type']} '{call['call_id']}'."
            raise InvalidRequest(message, param="input")
    check_approvals(before, items, pending, first=first)


def check_question(items: Sequence[Item]) -> None:
    """A conversation that gets no new items ends in something to answer. Raises InvalidRequest."""
    last = items[-1] if items else None
    answers = (*_CALL_OF, RESPONSE)
    if last is None or (last["type"] not in answers and last.get("role") in (None, "assistant")):
        raise InvalidRequest(
            "The conversation does not end in something to answer: give the next message as 'input'.",
            param="input",
        )


def is_told(item: Item) -> bool:
    """Whether it is a message of whoever runs the conversation, not of who takes part in it."""
    return item["type"] == "message" and item["role"] in ("system", "developer")


def is_users(item: Item) -> bool:
    """Whether it is a message of the user's."""
    return bool(item["type"] == "message" and item["role"] == "user")


def answered(items: Iterable[Item]) -> frozenset[str]:
    """Ids of the calls whose outputs are in `items`."""
    return frozenset(item["call_id"] for item in items if item["type"] in _CALL_OF)


def _key(call: Item) -> tuple[str, str]:
    return call["type"], call["call_id"]
