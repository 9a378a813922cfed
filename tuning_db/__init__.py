"""The tuning database: every measurement, failures too, and the expensive results of profiling.

`hcompile.tuning_db.store.open_db` opens it. Its values (`key`, `record`, `result`) need no SQLAlchemy.
"""
