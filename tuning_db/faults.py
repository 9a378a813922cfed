"""What a failing database means to a user: one line that says what, where and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import exc

from hcompile.errors import EnvironmentFault

_ELSEWHERE = "give another place with --db or HCOMPILE_CACHE_DIR"

# Words of SQLite's own messages, and what to say of each.
_MEANINGS = (
    ("not a database", f"is not a SQLite database: move it away, or {_ELSEWHERE}"),
    ("malformed", f"is damaged: move it away (its measurements can be made again), or {_ELSEWHERE}"),
    ("is locked", "stayed locked by another process: end that process, or try again"),
    ("readonly", f"cannot be written: make it and its folder writable, or {_ELSEWHERE}"),
    ("unable to open", f"cannot be opened: make it and its folder writable, or {_ELSEWHERE}"),
    ("full", f"cannot grow, the disk is full: free some space, or {_ELSEWHERE}"),
    ("disk i/o error", f"cannot be read or written, the disk or its file system fails: {_ELSEWHERE}"),
)


@contextmanager
def database_faults(where: str) -> Iterator[None]:
    """Turn a failure of the database at `where` into an EnvironmentFault.

    Errors that only wrong code can cause, such as a broken constraint, pass as they are.
    """
    try:
        yield
    except (exc.DataError, exc.IntegrityError, exc.ProgrammingError):
        raise
    except (exc.DatabaseError, exc.TimeoutError) as error:
        reason = str(error.orig if isinstance(error, exc.DatabaseError) else error).partition("\n")[0]
        for words, meaning in _MEANINGS:
            if words in reason.lower():
                raise EnvironmentFault(f"tuning database {where} {meaning}") from error
        raise EnvironmentFault(f"tuning database {where} cannot be used ({reason}): {_ELSEWHERE}") from error
