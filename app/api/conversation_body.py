"""The bodies of the routes of conversations."""

from typing import Annotated

from pydantic import Field

from app.api.items import InputItem
from app.api.requests import Metadata
from app.api.strict import Strict

MOST_ITEMS = 20
"""Of one request; a conversation may have any number."""


class CreateConversation(Strict):
    items: Annotated[list[InputItem], Field(max_length=MOST_ITEMS)] | None = None
    metadata: Metadata | None = None


class UpdateConversation(Strict):
    metadata: Metadata | None


class CreateItems(Strict):
    items: Annotated[list[InputItem], Field(min_length=1, max_length=MOST_ITEMS)]
