"""Calls of MCP tools that wait for the client's word: which answer is whose, and what was approved."""

from collections.abc import Collection, Iterable, Iterator, Sequence

from app.conversation.records import Item
from app.errors import InvalidRequest

REQUEST, RESPONSE, CALL = "mcp_approval_request", "mcp_approval_response", "mcp_call"
_MODELS = ("reasoning", CALL, REQUEST, "function_call", "custom_tool_call")


def check_approvals(
    before: Iterable[Item], items: Sequence[Item], pending: Sequence[Item] = (), *, first: int = 0
) -> None:
    """Every answer needs its request: in the turn before, or earlier among the new items. A request that gets
    none needs none: it is as if it had not been made. So is an answer among `pending` whose request is not
    there: that may have been deleted since.

    before, pending, first: as check_calls has them. Raises InvalidRequest.
    """
    made = {item["id"] for item in (*before, *pending) if item["type"] == REQUEST}
    waiting = {item["id"] for item in before if item["type"] == REQUEST}
    for item, place in placed(items, pending, first, "approval_request_id"):
        if item["type"] == REQUEST:
            waiting.add(item["id"])
        elif item["type"] == RESPONSE:
            request = item["approval_request_id"]
            if request not in waiting and (place != "conversation" or request in made):
                raise InvalidRequest(
                    f"No approval request with id '{request}' waits for an answer.", param=place
                )
            waiting.discard(request)


def placed(
    items: Sequence[Item], pending: Sequence[Item], first: int, field: str
) -> Iterator[tuple[Item, str]]:
    """`pending` and then `items`, each with what an error about its `field` names: the conversation, or the
    place in the request's input, in which `first` is that of the first item."""
    yield from ((item, "conversation") for item in pending)
    for position, item in enumerate(items, first):
        yield item, f"input[{position}].{field}"


def approved(before: Iterable[Item], items: Sequence[Item]) -> tuple[Item, ...]:
    """The requests that `items` approve and that were not run yet, in the order of their answers.

    What the model went on after was run then, whether or not the call is still there: no deletion runs it a
    second time.
    """
    requests = {item["id"]: item for item in (*before, *items) if item["type"] == REQUEST}
    run = runs(items)
    went_on = max((place for place, item in enumerate(items) if _is_models(item)), default=-1)
    new = [item for item in items[went_on + 1 :] if item["type"] == RESPONSE]
    yes = dict.fromkeys(item["approval_request_id"] for item in new if item["approve"])
    return tuple(requests[wanted] for wanted in yes if wanted in requests and wanted not in run)


def check_servers(calls: Iterable[Item], labels: Collection[str]) -> None:
    """calls: what was approved; labels: of the servers that it can be run on. Raises InvalidRequest."""
    for call in calls:
        if (label := call["server_label"]) not in labels:
            raise InvalidRequest(
                f"A call on the MCP server '{label}' was approved, which is not in tools.", param="tools"
            )


def runs(items: Iterable[Item]) -> dict[str, Item]:
    """Calls that were run once approved, by their request's id."""
    return {
        item["approval_request_id"]: item
        for item in items
        if item["type"] == CALL and item.get("approval_request_id")
    }


def denied(items: Iterable[Item]) -> frozenset[str]:
    """Ids of the requests that `items` deny."""
    return responses(item for item in items if item["type"] == RESPONSE and not item["approve"])


def responses(items: Iterable[Item]) -> frozenset[str]:
    """Ids of the requests that `items` answer."""
    return frozenset(item["approval_request_id"] for item in items if item["type"] == RESPONSE)


def _is_models(item: Item) -> bool:
    return item["type"] in _MODELS or item.get("role") == "assistant"
