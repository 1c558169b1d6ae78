"""The headers `x-session-id` and `x-session-ttl`: which context a turn starts from, and for how long.

Routers in front of vLLM know the first of them too, as a word that all requests of one conversation share:
one that names no context is that.
"""

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from starlette.datastructures import Headers

from app.api.context_body import Asked, ContextPrompt, completed
from app.api.requests import MAX_TTL_S, CachingField, CreateResponse
from app.conversation.context_store import ContextId, HeldContext
from app.conversation.contexts import Contexts, starting_from
from app.conversation.plan import TurnRequest
from app.conversation.records import TenantId
from app.conversation.running import RunningTurn
from app.errors import InvalidRequest

SESSION_ID = "x-session-id"
SESSION_TTL = "x-session-ttl"

_CONTEXT = "ctx_"
_ID = re.compile("[\x21-\x7e]{1,256}")
_SECONDS = re.compile("[0-9]{1,7}")


@dataclass(frozen=True, slots=True)
class Session:
    """What a request's headers say. held, prompt: of the context that it names, where it names one."""

    id: str | None = None
    ttl_s: int | None = None
    held: HeldContext | None = None
    prompt: ContextPrompt | None = None

    def completed(self, asked: Asked) -> Asked:
        """The request as the session means it; what it says itself stands."""
        if self.prompt is not None:
            asked = completed(asked, self.prompt)
        if not isinstance(asked, CreateResponse) or self.ttl_s is None:
            return asked
        caching = asked.caching or CachingField()
        if caching.ttl is not None:
            return asked
        return asked.model_copy(update={"caching": caching.model_copy(update={"ttl": self.ttl_s})})

    def starting(self, request: TurnRequest) -> TurnRequest:
        """The turn from where it starts, by the worker that the session's others go to."""
        if self.held is not None:
            request = starting_from(self.held, request)
        return request if request.affinity else replace(request, affinity=self.id)

    def headers(self, request: TurnRequest) -> dict[str, str]:
        """Of the answer: what the context has left to live; without one, the turn's prefix."""
        said: dict[str, str] = {}
        if self.id is not None:
            said[SESSION_ID] = self.id
        if self.held is not None:
            left = self.held.context.expires_at - datetime.now(UTC)
            said[SESSION_TTL] = str(max(0, round(left.total_seconds())))
        elif self.id is not None or self.ttl_s is not None:
            said[SESSION_TTL] = str(request.caching.ttl_s)
        return said

    def began(self, contexts: Contexts, turn: RunningTurn) -> None:
        """Call it once the turn has begun."""
        if self.held is not None and self.prompt is not None:
            contexts.began(self.held, turn.path, self.prompt.request(self.held.context.ttl_s))


async def session_of(headers: Headers, contexts: Contexts, tenant: TenantId, *, renew: bool) -> Session:
    """renew: whether the context is to live on as long as the header says.

    Raises InvalidRequest, and NotFound for a context that is not there; both name the header.
    """
    session_id, ttl_s = headers.get(SESSION_ID), ttl_of(headers)
    if session_id is None:
        return Session(ttl_s=ttl_s)
    if not _ID.fullmatch(session_id):
        raise _invalid(SESSION_ID, "at most 256 visible ASCII characters")
    if not session_id.startswith(_CONTEXT):
        return Session(session_id, ttl_s)
    held = await contexts.use(tenant, ContextId(session_id), ttl_s if renew else None, param=SESSION_ID)
    return Session(session_id, ttl_s, held, ContextPrompt.model_validate(held.context.prompt))


def ttl_of(headers: Headers) -> int | None:
    """Seconds. Raises InvalidRequest."""
    given = headers.get(SESSION_TTL)
    if given is None:
        return None
    if not _SECONDS.fullmatch(given) or not 1 <= int(given) <= MAX_TTL_S:
        raise _invalid(SESSION_TTL, f"whole seconds, from 1 to {MAX_TTL_S}")
    return int(given)


def _invalid(name: str, takes: str) -> InvalidRequest:
    return InvalidRequest(f"Invalid header '{name}': it takes {takes}.", param=name)


REQUEST_HEADERS: list[dict[str, Any]] = [
    {
        "name": SESSION_ID,
        "in": "header",
        "required": False,
        "description": "A context's id, for the turn to start from it; or any word, for the turns of one "
        "conversation to go to the same worker.",
        "schema": {"type": "string", "pattern": "^[\\x21-\\x7e]{1,256}$"},
    },
    {
        "name": SESSION_TTL,
        "in": "header",
        "required": False,
        "description": "Seconds for which the turn's prefix is kept, and the context from now on.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_TTL_S},
    },
]
