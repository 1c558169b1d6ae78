"""Responses in the background: their jobs and logs, and the tables of the queue library.

Those are in a schema of their own, as the library makes them: nothing of ours refers to them.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op
from procrastinate.schema import SchemaManager

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

QUEUE_SCHEMA = "marginalia_queue"


def upgrade() -> None:
    op.create_table(
        "background_jobs",
        sa.Column("tenant_id", sa.Text(), primary_key=True),
        sa.Column("response_id", sa.Text(), primary_key=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("waits", sa.Integer(), nullable=False),
        sa.Column("request", sa.Text()),
        sa.ForeignKeyConstraint(
            ["tenant_id", "response_id"],
            ["responses.tenant_id", "responses.id"],
            name="fk_background_jobs_response",
            ondelete="CASCADE",
        ),
        sa.CheckConstraint("state IN ('waiting', 'running', 'ended')", name="ck_background_jobs_state"),
    )
    op.create_index(
        "ix_background_jobs_unended",
        "background_jobs",
        ["tenant_id", "response_id"],
        postgresql_where=sa.text("state <> 'ended'"),
    )
    op.create_table(
        "response_events",
        sa.Column("tenant_id", sa.Text(), primary_key=True),
        sa.Column("response_id", sa.Text(), primary_key=True),
        sa.Column("sequence_number", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("event", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["tenant_id", "response_id"],
            ["background_jobs.tenant_id", "background_jobs.response_id"],
            name="fk_response_events_job",
            ondelete="CASCADE",
        ),
    )
    _make_queue()


def downgrade() -> None:
    op.execute(f"DROP SCHEMA {QUEUE_SCHEMA} CASCADE")
    op.drop_table("response_events")
    op.drop_table("background_jobs")


def _make_queue() -> None:
    """The library's own script: many statements, which asyncpg takes in one piece only by itself."""
    bind = op.get_bind()
    path = bind.execute(sa.text("SELECT current_setting('search_path')")).scalar_one()
    op.execute(f"CREATE SCHEMA {QUEUE_SCHEMA}")
    op.execute(f"SET LOCAL search_path TO {QUEUE_SCHEMA}")
    script = SchemaManager.get_schema()
    driver: Any = bind.connection.dbapi_connection
    driver.run_async(lambda asyncpg: asyncpg.execute(script))
    bind.execute(sa.text("SELECT set_config('search_path', :path, true)"), {"path": path})
