"""Lists of OpenAI's API as JSON."""

from collections.abc import Collection, Iterable
from typing import Any

from app.conversation.records import Item

WITHOUT_STATUS = frozenset({"compaction", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response"})
"""Kinds of items that have none."""


def page(data: list[dict[str, Any]], *, more: bool) -> dict[str, Any]:
    first, last = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    return {"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": more}


def shown(items: Iterable[Item], without_status: Collection[str] = WITHOUT_STATUS) -> list[Item]:
    """A client may leave out the status of what it sends; what is shown has one, if its kind has."""
    return [item if item["type"] in without_status else {"status": "completed", **item} for item in items]
