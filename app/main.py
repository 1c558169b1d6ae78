"""The only place that builds the parts of the service and joins them."""

import logging
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Literal

from fastapi import FastAPI

from app.api import contexts as contexts_api
from app.api import conversations as conversations_api
from app.api import stored, websocket
from app.api.errors import add_error_handlers
from app.api.openapi import document
from app.api.routes import Services, router
from app.conversation.attempts import Attempts
from app.conversation.background import Background
from app.conversation.contexts import Contexts
from app.conversation.conversations import Conversations
from app.conversation.leases import Leases
from app.conversation.responses import Responses
from app.conversation.sealing import Sealing
from app.conversation.seeds import Seeds
from app.conversation.turns import Turns
from app.conversation.upkeep import Upkeep
from app.engine.pool import WorkerPool
from app.jobs.queue import JobQueue
from app.mcp.servers import McpToolServers
from app.prefix.hashing import namespace_of
from app.prefix.wire import Policy
from app.store.background import PostgresBackgroundStore
from app.store.contexts import PostgresContextStore
from app.store.conversations import PostgresConversationStore
from app.store.database import Database, libpq_parameters
from app.store.responses import PostgresResponseStore


def create_app(
    *,
    database_url: str,
    worker_urls: Sequence[str],
    secret: str | None,
    prefix_ttl_seconds: int,
    keep_token_ids: bool = True,
    prefix_policy: Policy = "sampled",
    conversation_busy: Literal["wait", "refuse"] = "wait",
    background_concurrency: int = 4,
    background_stalled_seconds: float = 12.0,
    mcp_timeout_seconds: float = 60.0,
    mcp_allowed_hosts: Collection[str] = (),
) -> FastAPI:
    """The service over one migrated database and the vLLM servers at `worker_urls`.

    secret: shared with the plugin in those servers; without one, every turn is rendered in full.
    keep_token_ids, prefix_policy, conversation_busy, background_*, mcp_*: see Settings.
    """
    # It logs what it cannot read of a tool server's answers, which is part of a conversation.
    logging.getLogger("mcp").setLevel(logging.CRITICAL)
    database = Database(database_url)
    store = PostgresResponseStore(database)
    pool = WorkerPool(worker_urls, secret)
    namespace = partial(namespace_of, secret or "")
    sealing = Sealing(store)
    conversation_store = PostgresConversationStore(database)
    leases = Leases(conversation_store, wait=conversation_busy == "wait")
    conversations = Conversations(conversation_store, store, sealing, leases)
    context_store = PostgresContextStore(database)
    background_store = PostgresBackgroundStore(database)
    tool_servers = McpToolServers(mcp_timeout_seconds, frozenset(mcp_allowed_hosts))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(database.close)
            stack.push_async_callback(leases.aclose)
            stack.push_async_callback(tool_servers.aclose)
            await stack.enter_async_context(pool)
            seeds = await stack.enter_async_context(Seeds(store)) if keep_token_ids else None
            turns = Turns(
                store,
                pool,
                namespace,
                prefix_policy,
                seeds,
                sealing,
                conversations=conversations,
                tool_servers=tool_servers,
            )
            responses = Responses(store, pool, sealing)
            jobs = JobQueue(
                libpq_parameters(database_url),
                background_store,
                Attempts(background_store, turns, sealing).run,
                concurrency=background_concurrency,
                stalled_after_s=background_stalled_seconds,
            )
            await stack.enter_async_context(jobs)
            upkeep = Upkeep(context_store, store, responses, turns)
            await stack.enter_async_context(upkeep)
            app.state.services = Services(
                store=store,
                engine=pool,
                turns=turns,
                responses=responses,
                prefix_ttl_seconds=prefix_ttl_seconds,
                conversations=conversations,
                contexts=Contexts(context_store, turns, responses, upkeep),
                background=Background(background_store, responses, turns, sealing, jobs),
            )
            yield

    app = FastAPI(title="Marginalia", version=version("marginalia"), lifespan=lifespan)
    app.include_router(router)
    app.include_router(stored.router)
    app.include_router(conversations_api.router)
    app.include_router(contexts_api.router)
    app.include_router(websocket.router)
    add_error_handlers(app)
    app.openapi = partial(document, app)  # type: ignore[method-assign]
    return app
