from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import create_engine, event, exc, text

from hcompile.errors import EnvironmentFault, UsageError
from hcompile.tuning_db.faults import database_faults
from hcompile.tuning_db.location import NETWORK_FILESYSTEMS, cache_dir, filesystem_type
from hcompile.tuning_db.record import Record
from hcompile.tuning_db.result import ResultKey
from hcompile.tuning_db.store import TuningDB, open_db

RESULT = ResultKey.of("k", weights_sha256="1" * 64, data_sha256="2" * 64, code_sha256="3" * 64)


def fault(where: Path | str) -> str:
    """Return the one line that opening `where` fails with."""
    with pytest.raises(EnvironmentFault) as caught:
        open_db(where)
    message = str(caught.value)
    assert str(where) in message
    assert "\n" not in message
    assert "--db" in message
    return message


def test_the_default_place_is_in_the_cache_folder(cache_dir: Path) -> None:
    with open_db() as db:
        assert db.name == str(cache_dir / "tuning.sqlite")
    assert (cache_dir / "tuning.sqlite").is_file()


def test_without_the_variable_the_cache_folder_is_the_users(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HCOMPILE_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir().is_relative_to(tmp_path)
    assert cache_dir().name == "hcompile"


def test_a_path_may_hold_what_urls_escape(tmp_path: Path, record: Record) -> None:
    odd = tmp_path / "a b%20?#" / "ü@:.sqlite"
    with open_db(odd) as db:
        db.add(record)
    assert odd.is_file()


def test_a_file_that_is_no_database(path: Path) -> None:
    path.write_bytes(b"this is a text file, long enough for a header " * 100)
    assert "is not a SQLite database: move it away" in fault(path)


def test_a_truncated_database(path: Path, record: Record) -> None:
    with open_db(path) as db:
        db.add(record)
    path.write_bytes(path.read_bytes()[:5000])
    assert "is damaged: move it away" in fault(path)


def test_damage_that_shows_only_when_read(path: Path, record: Record) -> None:
    with open_db(path) as db:
        db.add(record)
        with db._engine.connect() as connection:
            page = connection.scalar(text("SELECT rootpage FROM sqlite_master WHERE name = 'records'"))
            size = connection.scalar(text("PRAGMA page_size"))
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    with open_db(path) as db, pytest.raises(EnvironmentFault, match=f"{path} is damaged: move it away"):
        db.records()


def test_a_folder_in_place_of_the_database(tmp_path: Path) -> None:
    assert "is a folder" in fault(tmp_path)


def test_a_place_under_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "none can be made (" in fault(tmp_path / "file" / "tuning.sqlite")


def test_a_place_where_no_file_can_be_made() -> None:
    assert "cannot be opened: make it and its folder writable" in fault("/proc/self/tuning.sqlite")


def test_a_database_that_cannot_be_written(path: Path, record: Record) -> None:
    with open_db(path) as db:
        event.listen(db._engine, "connect", lambda raw, _: raw.execute("PRAGMA query_only=ON"))
        db._engine.dispose()
        with pytest.raises(
            EnvironmentFault, match=f"{path} cannot be written: make it and its folder writable"
        ):
            db.add(record)


def test_a_full_disk_keeps_what_was_there(db: TuningDB, path: Path, record: Record) -> None:
    db.add(record)
    event.listen(db._engine, "connect", lambda raw, _: raw.execute("PRAGMA max_page_count=1"))
    db._engine.dispose()
    with pytest.raises(EnvironmentFault, match=f"{path} cannot grow, the disk is full: free some space"):
        db.put_result(RESULT, list(range(100_000)))
    assert db.get_result(RESULT) is None
    assert db.best(record.key) == record


def test_a_lock_that_stays(db: TuningDB, path: Path) -> None:
    impatient = create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})
    with sqlite3.connect(path, isolation_level=None) as holder:
        holder.execute("BEGIN IMMEDIATE")
        with (
            pytest.raises(EnvironmentFault, match=f"{path} stayed locked by another process"),
            database_faults(str(path)),
            impatient.connect() as connection,
        ):
            connection.execute(text("DELETE FROM records"))
    holder.close()
    impatient.dispose()


def test_an_error_of_the_code_passes_as_it_is(db: TuningDB) -> None:
    with pytest.raises(exc.IntegrityError), database_faults("here"), db._engine.begin() as connection:
        connection.execute(text("INSERT INTO claims (id) VALUES (1)"))


@pytest.mark.parametrize(
    "url",
    [
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?mode=ro&uri=true",
        "sqlite+aiosqlite:///x",
        "mysql://host/db",
        "nonsense://host/db",
        "://",
        "postgresql://host/db",
        "postgresql://host:port/db",
        "",
        ".",
    ],
)
def test_what_is_no_database_place_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError):
        open_db(url)


def test_another_kind_of_database_is_named_and_its_password_is_not() -> None:
    with pytest.raises(UsageError, match=r"postgresql://user:.*@host/db is no plain") as caught:
        open_db("postgresql://user:secret@host/db")
    assert "secret" not in str(caught.value)


MOUNTS = """\
/dev/root / ext4 rw 0 0
server:/home /home nfs4 rw 0 0
/dev/sdb /home/me/local\\040disk xfs rw 0 0
//server/share /mnt cifs rw 0 0
/dev/sdc /mnt ext4 rw 0 0
"""


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        ("/tmp/x/tuning.sqlite", "ext4"),
        ("/home/me/tuning.sqlite", "nfs4"),
        ("/home/me/local disk/tuning.sqlite", "xfs"),
        ("/homely/tuning.sqlite", "ext4"),
        ("/mnt/tuning.sqlite", "ext4"),
    ],
)
def test_the_file_system_is_that_of_the_deepest_and_latest_mount(place: str, kind: str) -> None:
    assert filesystem_type(Path(place), MOUNTS) == kind


def test_a_network_file_system_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(f"server:/ {tmp_path} nfs4 rw 0 0\n")
    monkeypatch.setattr("hcompile.tuning_db.location._MOUNTS", mounts)
    assert "nfs4" in NETWORK_FILESYSTEMS
    assert "network file system (nfs4), where SQLite loses updates" in fault(tmp_path / "tuning.sqlite")
