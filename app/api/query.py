"""Queries of the routes of stored responses: what each may hold. Anything else is refused by name."""

from typing import Annotated, Any, Literal, TypeVar

from openai.types.responses import ResponseIncludable
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import QueryParams

from app.api.refusals import refusal
from app.conversation.records import Paging
from app.errors import InvalidRequest

SEALED_REASONING = "reasoning.encrypted_content"


class Query(BaseModel):
    """A query without parameters."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Including(Query):
    include: list[ResponseIncludable] = []
    """All but sealed reasoning is always there or of tools that this server has not: without effect."""

    @property
    def seal(self) -> bool:
        return SEALED_REASONING in self.include


class Retrieving(Including):
    stream: bool = False
    starting_after: Annotated[int | None, Field(ge=0, lt=1 << 31)] = None
    include_obfuscation: bool | None = None


class Listing(Query):
    after: str | None = None
    limit: Annotated[int, Field(ge=1, le=100)] = 20
    order: Literal["asc", "desc"] = "desc"

    def paging(self) -> Paging:
        return Paging(self.limit, self.order == "asc", self.after)


class ListingItems(Listing, Including):
    pass


Q = TypeVar("Q", bound=Query)


def parse(query: QueryParams, into: type[Q]) -> Q:
    """Raises InvalidRequest for the first parameter at fault."""
    given: dict[str, Any] = {}
    for name, value in query.multi_items():
        # The SDKs write a list as include[]=a&include[]=b.
        if name in ("include", "include[]") and "include" in into.model_fields:
            given.setdefault("include", []).append(value)
        elif name in given:
            raise InvalidRequest(f"The query has '{name}' more than once.", param=name)
        else:
            given[name] = value
    try:
        return into.model_validate(given)
    except ValidationError as exc:
        error = exc.errors(include_url=False)[0]
        # A list's own name: which of its values it was, only the message says.
        error["loc"] = error["loc"][:1]
        raise refusal(error, known=()) from None
