"""The new items of a turn: references resolved, sealed reasoning opened, calls matched with their outputs."""

from collections.abc import Iterable, Sequence

from app.conversation.records import Item, ResponseStore, TenantId
from app.conversation.sealing import Sealing
from app.errors import InvalidRequest, NotFound

CALLS = {"function_call": "function_call_output", "custom_tool_call": "custom_tool_call_output"}
"""Kinds of calls, and of what answers them."""

_CALL_OF = {output: call for call, output in CALLS.items()}


async def resolve(
    items: Sequence[Item], store: ResponseStore, tenant: TenantId, sealing: Sealing
) -> tuple[Item, ...]:
    """Items as they are kept: each `item_reference` replaced by its item, sealed reasoning by its text.

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
                    param=f"input[{position}].id",
                )
            item = stored[item["id"]]
        elif sealed := item.get("encrypted_content"):
            text = (await sealing.sealer()).open(tenant, sealed, param=f"input[{position}].encrypted_content")
            content = [{"type": "reasoning_text", "text": text}]
            item = {k: v for k, v in item.items() if k != "encrypted_content"} | {"content": content}
        resolved.append(item)
    return tuple(resolved)


def check_calls(before: Iterable[Item], items: Sequence[Item]) -> None:
    """Every call needs its output and every output its call, before the model is asked again.

    before: the parent's output. Older calls need no look: its input was checked in its own turn. A call that
    was cut off in the middle may have an output, and needs none. Raises InvalidRequest.
    """
    open_calls = {_key(call): call for call in before if call["type"] in CALLS}
    for position, item in enumerate(items):
        if item["type"] in CALLS:
            if _key(item) in open_calls:
                message = f"Two tool calls with the call_id '{item['call_id']}' wait for their output."
                raise InvalidRequest(message, param=f"input[{position}].call_id")
            open_calls[_key(item)] = item
        elif (kind := _CALL_OF.get(item["type"])) and not open_calls.pop((kind, item["call_id"]), None):
            raise InvalidRequest(
                f"No tool call found for {item['type']} with call_id '{item['call_id']}'.",
                param=f"input[{position}].call_id",
            )
    for call in open_calls.values():
        if call.get("status") != "incomplete":
            message = f"No tool output found for {call['type']} '{call['call_id']}'."
            raise InvalidRequest(message, param="input")


def answered(items: Iterable[Item]) -> frozenset[str]:
    """Ids of the calls whose outputs are in `items`."""
    return frozenset(item["call_id"] for item in items if item["type"] in _CALL_OF)


def _key(call: Item) -> tuple[str, str]:
    return call["type"], call["call_id"]
