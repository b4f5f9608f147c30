"""Whose doubt it is: a matter of style, of the image, or of networks that know too little."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "doubt_parts",
        sa.Column("recipe", sa.Text, nullable=False),
        sa.Column("champion", sa.Text, nullable=False),
        sa.Column("case_id", sa.Text, nullable=False),
        sa.Column("parts_json", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("recipe", "champion", "case_id"),
    )
