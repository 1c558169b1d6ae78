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


class KeyRow(Base):
    """A secret of all services that use this database."""

    __tablename__ = "keys"

    name: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[bytes]


TABLES = Base.metadata.tables
"""By name: inserting into a table costs less than by its class."""
