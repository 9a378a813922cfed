"""The alembic environment: `versions` holds one file per change of the schema, run when a database is opened.

A new one is a file there whose `down_revision` names the last, and its `revision` as `HEAD` in `schema`.
"""
