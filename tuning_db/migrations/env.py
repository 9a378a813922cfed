"""Runs the migrations on the connection that `schema.migrate` hands over, inside its transaction."""

from __future__ import annotations

from alembic import context

from hcompile.tuning_db.models import Base
from hcompile.tuning_db.schema import VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
