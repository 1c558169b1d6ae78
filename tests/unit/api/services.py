"""What the routes are given, over stores in memory."""

from typing import Any

from app.api.routes import Services
from app.conversation.background import Background
from app.conversation.contexts import Contexts
from app.conversation.engine import Engine
from app.conversation.responses import Responses
from app.conversation.sealing import Sealing
from app.conversation.upkeep import Upkeep
from app.store.memory_contexts import MemoryContextStore
from tests.unit.conversation.test_turns import Chat


def services(chat: Chat, engine: Engine | None = None, background: Any = None) -> Services:
    """A chat's parts. engine: in place of its own. background: for tests that need it."""
    engine = engine or chat.worker
    responses = Responses(chat.store, engine, Sealing(chat.store))
    kept = MemoryContextStore(chat.store)
    upkeep = Upkeep(kept, chat.store, responses, chat.turns)
    nothing: Any = None
    return Services(
        store=chat.store,
        engine=engine,
        turns=chat.turns,
        responses=responses,
        prefix_ttl_seconds=60,
        conversations=chat.conversations,
        contexts=Contexts(kept, chat.turns, responses, upkeep),
        # Without a store: it knows what is not in the background.
        background=background or Background(nothing, responses, chat.turns, Sealing(chat.store), nothing),
    )
