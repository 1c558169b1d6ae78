"""The tables. `migrations/` makes them; a test holds that both say the same.

Every key starts with the tenant, so that no row can refer to another tenant's and no query can do
without one. Only the service's own secrets have none.

JSON values are of type `json`, not `jsonb`: it keeps the text as it was written. `jsonb` refuses the
character U+0000, which models do emit, and reorders keys, which chat templates render in their order.
Nothing here is searched by what is inside a JSON value.
"""

from datetime import datetime
from typing import Any

from sqlalchemy import (
    JSON,
    CheckConstraint,
    DateTime,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    Text,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

PARENT_FK = "fk_responses_previous_response"
SEED_FK = "fk_seeds_checkpoint"
CONTEXT_FK = "fk_contexts_response"

INPUT = "input"
OUTPUT = "output"


class Base(DeclarativeBase):
    type_annotation_map = {  # noqa: RUF012
        str: Text(),
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSON(),
        bytes: LargeBinary(),
    }


class ResponseRow(Base):
    """One turn. `deleted_at`: it only lives on as an ancestor of others, a tombstone."""

    __tablename__ = "responses"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "previous_response_id"],
            ["responses.tenant_id", "responses.id"],
            name=PARENT_FK,
        ),
        # The children of a response; also what the foreign key needs when a row is removed.
        Index("ix_responses_previous_response", "tenant_id", "previous_response_id"),
        # A tenant's live responses by age.
        Index(
            "ix_responses_live",
            "tenant_id",
            "created_at",
            "id",
            postgresql_where=text("deleted_at IS NULL"),
        ),
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    root_id: Mapped[str]
    previous_response_id: Mapped[str | None]
    created_at: Mapped[datetime]
    deleted_at: Mapped[datetime | None]
    body: Mapped[dict[str, Any]]


class ItemRow(Base):
    """`item_id` is the item's own, see `packing.py`; several rows may hold an item of the same id."""

    __tablename__ = "items"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "response_id"],
            ["responses.tenant_id", "responses.id"],
            name="fk_items_response",
            ondelete="CASCADE",
        ),
        CheckConstraint(f"direction IN ('{INPUT}', '{OUTPUT}')", name="ck_items_direction"),
        Index("ix_items_item_id", "tenant_id", "item_id"),
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    response_id: Mapped[str] = mapped_column(primary_key=True)
    direction: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    item: Mapped[dict[str, Any]]
    item_id: Mapped[str | None]


class CheckpointRow(Base):
    """`proof` is packed, see `packing.py`."""

    __tablename__ = "checkpoints"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "response_id"],
            ["responses.tenant_id", "responses.id"],
            name="fk_checkpoints_response",
            ondelete="CASCADE",
        ),
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    response_id: Mapped[str] = mapped_column(primary_key=True)
    ref: Mapped[str]
    prefix_hash: Mapped[str]
    token_count: Mapped[int]
    fingerprint: Mapped[str]
    proof: Mapped[bytes]
    worker: Mapped[str]
    expires_at: Mapped[datetime]


class SeedRow(Base):
    """A turn's token ids, as the worker packed them, written after the turn.

    They go with the checkpoint, which a deletion removes at once, also from a response that stays as a
    tombstone: so that a seed that comes late finds nothing to belong to.
    """

    __tablename__ = "seeds"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "response_id"],
            ["checkpoints.tenant_id", "checkpoints.response_id"],
            name=SEED_FK,
            ondelete="CASCADE",
        ),
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    response_id: Mapped[str] = mapped_column(primary_key=True)
    seed: Mapped[bytes]


class ConversationRow(Base):
    """`lease`: who has its turn, until `lease_expires_at`; null where nobody has. `changed`: why the last
    response that still is its head is not its last turn's."""

    __tablename__ = "conversations"

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]
    # `metadata` is SQLAlchemy's own name.
    labels: Mapped[dict[str, Any]] = mapped_column("metadata")
    next_position: Mapped[int]
    changed: Mapped[str | None]
    lease: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]


class ConversationItemRow(Base):
    """An id stands for one item of its conversation.

    `response_id`: the response whose prompt and output are the items up to the last that bears its id. It may
    be deleted by now: no key refers to it, so that deleting a response locks no conversation.
    """

    __tablename__ = "conversation_items"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "conversation_id"],
            ["conversations.tenant_id", "conversations.id"],
            name="fk_conversation_items_conversation",
            ondelete="CASCADE",
        ),
        Index("ix_conversation_items_item_id", "tenant_id", "conversation_id", "item_id", unique=True),
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    conversation_id: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    item: Mapped[dict[str, Any]]
    item_id: Mapped[str]
    response_id: Mapped[str | None]


class ContextRow(Base):
    """A prefix that conversations start from. It goes with its response."""

    __tablename__ = "contexts"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "response_id"],
            ["responses.tenant_id", "responses.id"],
            name=CONTEXT_FK,
            ondelete="CASCADE",
        ),
        Index("ix_contexts_response", "tenant_id", "response_id", unique=True),
        # A tenant's contexts by age.
        Index("ix_contexts_created_at", "tenant_id", "created_at", "id"),
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str | None]
    response_id: Mapped[str]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
    ttl_s: Mapped[int]
    prompt: Mapped[dict[str, Any]]


class BackgroundJobRow(Base):
    """How a response in the background comes about, and to whom its log belongs.

    `attempt`: the number of the last one; only that may write. `request`: sealed; null once it has ended.
    A deletion removes it at once, also from a response that stays as a tombstone.
    """

    __tablename__ = "background_jobs"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "response_id"],
            ["responses.tenant_id", "responses.id"],
            name="fk_background_jobs_response",
            ondelete="CASCADE",
        ),
        CheckConstraint("state IN ('waiting', 'running', 'ended')", name="ck_background_jobs_state"),
        Index(
            "ix_background_jobs_unended",
            "tenant_id",
            "response_id",
            postgresql_where=text("state <> 'ended'"),
        ),
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    response_id: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str]
    attempt: Mapped[int]
    tries: Mapped[int]
    waits: Mapped[int]
    request: Mapped[str | None]


class ResponseEventRow(Base):
    """An event that streams of a response in the background give, from its beginning to its deletion."""

    __tablename__ = "response_events"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant_id", "response_id"],
            ["background_jobs.tenant_id", "background_jobs.response_id"],
            name="fk_response_events_job",
            ondelete="CASCADE",
        ),
    )

    tenant_id: Mapped[str] = mapped_column(primary_key=True)
    response_id: Mapped[str] = mapped_column(primary_key=True)
    sequence_number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    event: Mapped[dict[str, Any]]
    sampled: Mapped[bytes | None]
    """Ids of tokens that were sampled since the event before, as little-endian int32."""


class KeyRow(Base):
    """A secret of all services that use this database."""

    __tablename__ = "keys"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[bytes]


TABLES = Base.metadata.tables
"""By name: inserting into a table costs less than by its class."""
