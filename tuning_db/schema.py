"""Opens the engine and brings the schema to the present version."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, text

from hcompile.errors import EnvironmentFault

HEAD = "0001"
"""The newest revision in migrations/versions; known here so that opening a database imports no alembic."""

VERSION_TABLE = "hcompile_schema"

BUSY_TIMEOUT_S = 30

_MIGRATING = threading.Lock()  # alembic keeps the running migration in module globals.


def make_engine(url: URL) -> Engine:
    """Return an engine whose transactions lose no update.

    SQLite's own BEGIN takes the write lock at the first write, so two transactions can read the same row and
    both write it. BEGIN IMMEDIATE takes it first; connections with the execution option `reading` do not.
    """
    engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_S})
    event.listen(engine, "connect", _on_connect)
    event.listen(engine, "begin", _on_begin)
    return engine


def migrate(engine: Engine, where: str) -> None:
    """Create the tables of an empty database, or bring those of an older hcompile up to date.

    Raises:
        EnvironmentFault: the database is a newer hcompile's or something else's, or cannot be locked.
    """
    if _is_present(engine, where):
        return
    with _MIGRATING, _file_lock(engine, where):
        if _is_present(engine, where):
            return
        _use_wal(engine, where)
        from alembic import command

        with engine.begin() as connection:
            config = alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")


def alembic_config() -> Any:
    """Return alembic's configuration; typed Any because alembic is imported for migrations only."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    return config


def _is_present(engine: Engine, where: str) -> bool:
    """Say whether the schema is the present one; raise EnvironmentFault if it can never become it."""
    with engine.execution_options(reading=True).connect() as connection:
        tables = inspect(connection).get_table_names()
        if VERSION_TABLE not in tables:
            if tables:
                raise EnvironmentFault(
                    f"tuning database {where} holds tables of another program: give another place with --db"
                )
            return False
        revision = connection.scalar(text(f"SELECT version_num FROM {VERSION_TABLE}"))
        if connection.scalar(text("PRAGMA journal_mode")) != "wal":
            return False
    if revision != HEAD and revision not in _known_revisions():
        raise EnvironmentFault(
            f"tuning database {where} has schema {revision}, newer than {HEAD} of this hcompile: "
            "upgrade hcompile, or give another place with --db"
        )
    return bool(revision == HEAD)


def _known_revisions() -> set[str]:
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()}


@contextmanager
def _file_lock(engine: Engine, where: str) -> Iterator[None]:
    """Keep other processes from migrating the same file."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{engine.url.database}.lock", timeout=BUSY_TIMEOUT_S)
    try:
        lock.acquire()
    except Timeout as error:
        raise EnvironmentFault(
            f"tuning database {where} is being set up by another process: end that process, or try again"
        ) from error
    except OSError as error:
        raise EnvironmentFault(
            f"tuning database {where}: {error.strerror or error} when locking {lock.lock_file}: "
            "make its folder writable, or give another place with --db or HCOMPILE_CACHE_DIR"
        ) from error
    try:
        yield
    finally:
        lock.release()


def _use_wal(engine: Engine, where: str) -> None:
    """Switch the file to write-ahead logging, which stays with it: readers then never wait for a writer."""
    with engine.execution_options(reading=True).connect() as connection:
        raw = connection.connection.cursor()  # The journal mode cannot change inside a transaction.
        mode = raw.execute("PRAGMA journal_mode=WAL").fetchone()[0]
        raw.close()
    if mode != "wal":
        raise EnvironmentFault(
            f"tuning database {where} cannot use write-ahead logging: give a place on a local disk with --db"
        )


def _on_connect(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # Leaves BEGIN to _on_begin.
    for pragma in ("synchronous=NORMAL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _on_begin(connection: Connection) -> None:
    reading = connection.get_execution_options().get("reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
