"""The body of `POST /v1/responses/compact`: what is accepted, and what it asks for."""

from typing import Literal

from app.api.items import as_item
from app.api.prompt import Given
from app.api.requests import CacheKey, CacheOptions, CacheRetention
from app.api.strict import Absent, Strict
from app.conversation.options import Options
from app.conversation.plan import Caching, TurnRequest
from app.conversation.records import ResponseId
from app.errors import MissingParameter


class CompactResponse(Strict):
    model: str | None = None
    input: Given = None
    instructions: str | None = None
    previous_response_id: str | None = None
    image: Absent = None
    prompt_cache_key: CacheKey | None = None
    prompt_cache_options: CacheOptions | None = None
    prompt_cache_retention: CacheRetention | None = None
    service_tier: Literal["auto", "default", "fast", "flex", "priority"] | None = None

    def turn(self) -> TurnRequest:
        """Raises InvalidRequest."""
        if not self.input and self.previous_response_id is None:
            raise MissingParameter("Missing required parameter: 'input'.", param="input")
        previous = self.previous_response_id
        return TurnRequest(
            model=self.model,
            input=tuple(as_item(item) for item in self.input or ()),
            previous_response_id=None if previous is None else ResponseId(previous),
            store=False,
            caching=Caching(enabled=True, ttl_s=0, keep=False),
            options=Options(instructions=self.instructions or None),
            echo={},
            affinity=self.prompt_cache_key,
            compact=True,
        )
