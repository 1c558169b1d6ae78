"""Token ids of a response in the background, for an attempt that goes on from them."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("response_events", sa.Column("sampled", sa.LargeBinary()))


def downgrade() -> None:
    op.drop_column("response_events", "sampled")
