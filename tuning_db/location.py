"""Where the tuning database lives: the default place, a path, or the URL of a SQLite file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hcompile.errors import EnvironmentFault, UsageError

if TYPE_CHECKING:
    from sqlalchemy import URL

NETWORK_FILESYSTEMS = frozenset(
    {"afs", "beegfs", "ceph", "cifs", "fuse.sshfs", "gpfs", "lustre", "ncpfs", "nfs", "nfs4", "smb3", "smbfs"}
)
"""Types of file system without the shared memory that several processes on one SQLite database need."""

_MOUNTS = Path("/proc/self/mounts")

_SQLITE_DRIVERS = ("sqlite", "sqlite+pysqlite")


def cache_dir() -> Path:
    """Return the folder of what is kept between runs: HCOMPILE_CACHE_DIR, or the user's cache folder."""
    from platformdirs import user_cache_path

    chosen = os.environ.get("HCOMPILE_CACHE_DIR")
    return Path(os.path.expanduser(chosen)) if chosen else user_cache_path("hcompile")


def database_url(where: str | Path | None) -> URL:
    """Return the URL of a SQLite file given as path, as URL, or not at all (the default place).

    Raises:
        UsageError: the text is no database URL, or names anything but a SQLite file. On other databases two processes
            could be granted one claim.
    """
    from sqlalchemy import URL, make_url
    from sqlalchemy.exc import ArgumentError

    if isinstance(where, str) and "://" in where:
        try:
            url = make_url(where)
        except (ArgumentError, ValueError) as error:
            raise UsageError(f"database URL {where!r} is not valid: give a path or sqlite:///PATH") from error
        plain = url.drivername in _SQLITE_DRIVERS and url.database not in (None, "", ":memory:")
        if not plain or url.query:
            shown = url.render_as_string(hide_password=True)
            raise UsageError(
                f"database URL {shown} is no plain SQLite file, the only kind there is: give a path"
            )
        where = str(url.database)
    path = cache_dir() / "tuning.sqlite" if where is None else Path(os.path.expanduser(where))
    if not path.name or "\0" in str(path):
        raise UsageError(f"database {str(where)!r} is no path of a file: give a path such as tuning.sqlite")
    return URL.create("sqlite+pysqlite", database=str(path.absolute()))


def prepare_folder(path: Path) -> None:
    """Make the folder of a SQLite database, on a local disk.

    Raises:
        EnvironmentFault: the folder cannot be made, or lies on a network file system.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        is_folder = path.is_dir()
    except OSError as error:
        reason = error.strerror or str(error)
        raise EnvironmentFault(
            f"tuning database {path} has no folder and none can be made ({reason}): "
            "give another place with --db or HCOMPILE_CACHE_DIR"
        ) from error
    if is_folder:
        raise EnvironmentFault(f"tuning database {path} is a folder: name a file in it with --db")
    kind = filesystem_type(path, _MOUNTS.read_text() if _MOUNTS.exists() else "")
    if kind in NETWORK_FILESYSTEMS:
        raise EnvironmentFault(
            f"tuning database {path} lies on a network file system ({kind}), where SQLite loses updates: "
            "give a place on a local disk with --db or HCOMPILE_CACHE_DIR, and share records with db export"
        )


def filesystem_type(path: Path, mounts: str) -> str:
    """Return the type of the file system that holds `path`, by a mount table as /proc/self/mounts has it."""
    real = Path(os.path.realpath(path))
    found, kind = Path(), ""
    for line in mounts.splitlines():
        _, point, this_kind, *_ = line.split(" ")
        # The table writes blanks as octal escapes. Of two mounts on one point the later one is seen.
        folder = Path(os.fsdecode(point.encode().decode("unicode_escape").encode("latin-1")))
        if real.is_relative_to(folder) and len(folder.parts) >= len(found.parts):
            found, kind = folder, this_kind
    return kind
