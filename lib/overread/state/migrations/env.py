"""Run by alembic: takes the transaction it is given, so that a migration that fails leaves nothing behind."""

from alembic import context

from overread.state.migration import VERSION_TABLE
from overread.state.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
    # SQLite changes a column by making the table anew.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
