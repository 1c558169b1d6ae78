"""Calls of MCP tools that wait for the client's word: which answer is whose, and what was approved."""

from collections.abc import Iterable, Sequence

from app.conversation.records import Item
from app.errors import InvalidRequest

REQUEST, RESPONSE, CALL = "mcp_approval_request", "mcp_approval_response", "mcp_call"


def check_approvals(
    before: Iterable[Item], items: Sequence[Item], pending: Sequence[Item] = (), *, first: int = 0
) -> None:
    """Every answer needs its request: in the turn before, or earlier among the new items. A request that gets
    none needs none: it is as if it had not been made.

    before, pending, first: as check_calls has them. Raises InvalidRequest.
    """
    waiting = {item["id"] for item in (*before, *pending) if item["type"] == REQUEST}
    waiting -= {item["approval_request_id"] for item in pending if item["type"] == RESPONSE}
    for position, item in enumerate(items):
        if item["type"] == REQUEST:
            waiting.add(item["id"])
        elif item["type"] == RESPONSE:
            if item["approval_request_id"] not in waiting:
                raise InvalidRequest(
                    f"No approval request with id '{item['approval_request_id']}' waits for an answer.",
                    param=f"input[{first + position}].approval_request_id",
                )
            waiting.discard(item["approval_request_id"])


def approved(before: Iterable[Item], items: Sequence[Item]) -> tuple[Item, ...]:
    """The requests that `items` approve and that were not run yet, in the order of their answers."""
    requests = {item["id"]: item for item in (*before, *items) if item["type"] == REQUEST}
    run = runs(items)
    yes = [item["approval_request_id"] for item in items if item["type"] == RESPONSE and item["approve"]]
    return tuple(requests[wanted] for wanted in yes if wanted in requests and wanted not in run)


def runs(items: Iterable[Item]) -> dict[str, Item]:
    """Calls that were run once approved, by their request's id."""
    return {
        item["approval_request_id"]: item
        for item in items
        if item["type"] == CALL and item.get("approval_request_id")
    }


def responses(items: Iterable[Item]) -> frozenset[str]:
    """Ids of the requests that `items` answer."""
    return frozenset(item["approval_request_id"] for item in items if item["type"] == RESPONSE)
