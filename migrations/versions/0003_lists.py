"""Items by their id, responses by their age, and secrets."""

import json

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

ITEMS = sa.table(
    "items",
    sa.column("tenant_id", sa.Text()),
    sa.column("response_id", sa.Text()),
    sa.column("direction", sa.Text()),
    sa.column("position", sa.Integer()),
    sa.column("item", sa.JSON()),
    sa.column("item_id", sa.Text()),
)
KEY = (ITEMS.c.tenant_id, ITEMS.c.response_id, ITEMS.c.direction, ITEMS.c.position)
LONGEST_ID = 256


def upgrade() -> None:
    op.add_column("items", sa.Column("item_id", sa.Text()))
    _fill_plain()
    _fill_escaped()
    op.create_index("ix_items_item_id", "items", ["tenant_id", "item_id"])
    op.create_index(
        "ix_responses_live",
        "responses",
        ["tenant_id", "created_at", "id"],
        postgresql_where=sa.text("deleted_at IS NULL"),
    )
    op.create_table(
        "keys",
        sa.Column("name", sa.Text(), primary_key=True),
        sa.Column("value", sa.LargeBinary(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("keys")
    op.drop_index("ix_responses_live", "responses")
    op.drop_index("ix_items_item_id", "items")
    op.drop_column("items", "item_id")


def _fill_plain() -> None:
    """Postgres reads no field of a JSON text that holds U+0000 anywhere: such items are left alone."""
    plain = sa.func.strpos(sa.cast(ITEMS.c.item, sa.Text()), "\\u") == 0
    item_id = sa.case((plain, ITEMS.c.item.op("->>")("id")))
    length = sa.func.char_length(item_id)
    op.execute(sa.update(ITEMS).values(item_id=item_id).where(length.between(1, LONGEST_ID)))


def _fill_escaped() -> None:
    connection = op.get_bind()
    columns = (*KEY, sa.cast(ITEMS.c.item, sa.Text()).label("json"))
    escaped = sa.func.strpos(sa.cast(ITEMS.c.item, sa.Text()), "\\u") > 0
    for *key, text in connection.execute(sa.select(*columns).where(escaped)).all():
        item_id = json.loads(text).get("id")
        if isinstance(item_id, str) and "\x00" not in item_id and 1 <= len(item_id) <= LONGEST_ID:
            mine = (column == value for column, value in zip(KEY, key, strict=True))
            connection.execute(sa.update(ITEMS).values(item_id=item_id).where(*mine))
