"""What alembic runs around the migrations. `app.store.migrate` hands it the connection and commits."""

from alembic import context

from app.store.models import Base

if context.is_offline_mode():
    raise SystemExit("Use `marginalia db upgrade`: SQL scripts are not generated.")

context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
with context.begin_transaction():
    context.run_migrations()
