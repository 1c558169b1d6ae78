"""Items by their id, responses by their age, and secrets."""

import json
import re

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
USABLE_ID = re.compile("[^\x00\ud800-\udfff]{1,256}")
BATCH_ROWS = 1000


def upgrade() -> None:
    op.add_column("items", sa.Column("item_id", sa.Text()))
    _fill()
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


def _fill() -> None:
    """In batches, by the primary key: a table of any size takes little memory.

    Postgres reads no field of a JSON text that holds U+0000 anywhere: where it may, all of it is read here.
    """
    connection = op.get_bind()
    text = sa.cast(ITEMS.c.item, sa.Text())
    id_alone = sa.func.json_build_object("id", ITEMS.c.item.op("->")("id"))
    to_read = sa.case((sa.func.strpos(text, "\\u") == 0, sa.cast(id_alone, sa.Text())), else_=text)
    batch = sa.select(*KEY, to_read).order_by(*KEY).limit(BATCH_ROWS)
    names = [f"of_{column.name}" for column in KEY]
    mine = (column == sa.bindparam(name) for column, name in zip(KEY, names, strict=True))
    fill = sa.update(ITEMS).where(*mine)
    last: tuple[str, str, str, int] = ("", "", "", -1)
    while rows := connection.execute(batch.where(sa.tuple_(*KEY) > last)).all():
        found = []
        for *key, json_text in rows:
            item_id = json.loads(json_text).get("id")
            if isinstance(item_id, str) and USABLE_ID.fullmatch(item_id):
                found.append({"item_id": item_id, **dict(zip(names, key, strict=True))})
        if found:
            connection.execute(fill, found)
        last = rows[-1][:4]
