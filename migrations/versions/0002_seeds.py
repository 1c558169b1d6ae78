"""The token ids of turns."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "seeds",
        sa.Column("tenant_id", sa.Text(), nullable=False),
        sa.Column("response_id", sa.Text(), nullable=False),
        sa.Column("seed", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "response_id"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "response_id"],
            ["checkpoints.tenant_id", "checkpoints.response_id"],
            name="fk_seeds_checkpoint",
            ondelete="CASCADE",
        ),
    )


def downgrade() -> None:
    op.drop_table("seeds")
