from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, text

from hcompile.errors import EnvironmentFault
from hcompile.tuning_db.location import database_url
from hcompile.tuning_db.models import Base
from hcompile.tuning_db.record import Record
from hcompile.tuning_db.schema import HEAD, VERSION_TABLE, alembic_config, make_engine, migrate
from hcompile.tuning_db.store import TuningDB, open_db


@pytest.fixture
def engine(db: TuningDB) -> Engine:
    return db._engine


def test_a_migrated_database_equals_the_models(engine: Engine) -> None:
    with engine.connect() as connection:
        options = {"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
        context = MigrationContext.configure(connection, opts=options)
        assert compare_metadata(context, Base.metadata) == []


def test_a_migrated_database_has_the_constraints_that_the_models_create(
    engine: Engine, tmp_path: Path
) -> None:
    plain = make_engine(database_url(tmp_path / "plain.sqlite"))
    Base.metadata.create_all(plain)
    assert definitions(engine) == definitions(plain)
    plain.dispose()


def definitions(engine: Engine) -> dict[str, list[str]]:
    """Return the parts of each table's and index's definition, in an order of their own."""
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL")).all()
    return {
        name: sorted(line.strip(" \t,") for line in sql.splitlines())
        for name, sql in rows
        if name != VERSION_TABLE
    }


def test_the_known_revision_is_the_newest_script() -> None:
    assert ScriptDirectory.from_config(alembic_config()).get_heads() == [HEAD]


def test_the_database_uses_the_settings_that_lose_no_update(engine: Engine) -> None:
    with engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA synchronous")) == 1  # NORMAL
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1
        assert connection.scalar(text("PRAGMA busy_timeout")) == 30_000


def test_a_writing_transaction_locks_before_it_reads(engine: Engine, path: Path) -> None:
    other = sqlite3.connect(path, timeout=0, isolation_level=None)
    with engine.begin(), pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("BEGIN IMMEDIATE")
    with engine.execution_options(reading=True).begin():
        other.execute("BEGIN IMMEDIATE")
    other.close()


def test_migrating_again_changes_nothing(engine: Engine, db: TuningDB, record: Record) -> None:
    db.add(record)
    migrate(engine, db.name)
    assert db.best(record.key) == record


def test_write_ahead_logging_comes_back_to_a_copied_database(path: Path, record: Record) -> None:
    with open_db(path) as db:
        db.add(record)
    with sqlite3.connect(path) as raw:
        assert raw.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",)
    raw.close()
    with open_db(path) as db, db._engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert db.best(record.key) == record


def test_a_newer_schema_is_refused_and_left_alone(path: Path) -> None:
    open_db(path).close()
    with sqlite3.connect(path) as raw:
        raw.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(
        EnvironmentFault, match=f"{path} has schema 9999, newer than {HEAD} .*: upgrade hcompile"
    ):
        open_db(path)
    assert path.read_bytes() == before


def test_the_database_of_another_program_is_refused_and_left_alone(path: Path) -> None:
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TABLE records (id INTEGER)")
    raw.close()
    before = path.read_bytes()
    with pytest.raises(EnvironmentFault, match=f"{path} holds tables of another program"):
        open_db(path)
    assert path.read_bytes() == before


def test_an_empty_file_becomes_a_database(path: Path, record: Record) -> None:
    path.touch()
    with open_db(path) as db:
        db.add(record)
        assert db.count() == 1
