"""The only place that builds the parts of the service and joins them."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from importlib.metadata import version

from fastapi import FastAPI

from app.api import stored
from app.api.errors import add_error_handlers
from app.api.openapi import document
from app.api.routes import Services, router
from app.conversation.responses import Responses
from app.conversation.sealing import Sealing
from app.conversation.seeds import Seeds
from app.conversation.turns import Turns
from app.engine.pool import WorkerPool
from app.prefix.hashing import namespace_of
from app.prefix.wire import Policy
from app.store.database import Database
from app.store.responses import PostgresResponseStore


def create_app(
    *,
    database_url: str,
    worker_urls: Sequence[str],
    secret: str | None,
    prefix_ttl_seconds: int,
    keep_token_ids: bool = True,
    prefix_policy: Policy = "sampled",
) -> FastAPI:
    """The service over one migrated database and the vLLM servers at `worker_urls`.

    secret: shared with the plugin in those servers; without one, every turn is rendered in full.
    keep_token_ids, prefix_policy: see Settings.
    """
    database = Database(database_url)
    store = PostgresResponseStore(database)
    pool = WorkerPool(worker_urls, secret)
    namespace = partial(namespace_of, secret or "")
    sealing = Sealing(store)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(database.close)
            await stack.enter_async_context(pool)
            seeds = await stack.enter_async_context(Seeds(store)) if keep_token_ids else None
            app.state.services = Services(
                store=store,
                engine=pool,
                turns=Turns(store, pool, namespace, prefix_policy, seeds, sealing),
                responses=Responses(store, pool, sealing),
                prefix_ttl_seconds=prefix_ttl_seconds,
            )
            yield

    app = FastAPI(title="Marginalia", version=version("marginalia"), lifespan=lifespan)
    app.include_router(router)
    app.include_router(stored.router)
    add_error_handlers(app)
    app.openapi = partial(document, app)  # type: ignore[method-assign]
    return app
