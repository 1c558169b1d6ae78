"""Pages of a list. A query for one gives up to `rows_of` entries, from the one with the id `after` on: so one
query tells the page, whether there is such an entry, and whether the list goes on."""

from collections.abc import Sequence
from typing import TypeVar

from app.conversation.records import Paging
from app.errors import InvalidRequest

Row = TypeVar("Row")


def rows_of(paging: Paging) -> int:
    """How many to query: the page, the one that it comes after, and one that tells whether there are more."""
    return paging.limit + 1 + (paging.after is not None)


def page_of(rows: Sequence[Row], paging: Paging) -> tuple[tuple[Row, ...], bool]:
    """The page, and whether there are more. Raises InvalidRequest where there is no such `after`."""
    if paging.after is not None:
        if not rows:
            raise InvalidRequest("Nothing in this list has the id that 'after' gives.", param="after")
        rows = rows[1:]
    return tuple(rows[: paging.limit]), len(rows) > paging.limit


def from_on(
    oldest_first: Sequence[tuple[str | None, Row]], paging: Paging
) -> Sequence[tuple[str | None, Row]]:
    """Of entries in memory with their ids: from the one with the id `after` on, that one included."""
    listed = oldest_first if paging.ascending else oldest_first[::-1]
    if paging.after is None:
        return listed
    places = [place for place, (entry_id, _) in enumerate(listed) if entry_id == paging.after]
    return listed[places[0] :] if places else ()
