"""A temporary folder that is locked while its process lives, so that what killed processes left can be removed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# A folder is locked at once after it is made: one this old and not locked has lost its process.
_ABANDONED_S = 3600.0


@contextmanager
def locked_folder(prefix: str, parent: Path) -> Iterator[Path]:
    """Yield an empty folder under `parent` whose name begins with `prefix`, and remove it when the block ends.

    Folders of this prefix that killed processes of this user left behind are removed first.

    Raises:
        OSError: the folder cannot be made.
    """
    for left in parent.glob(f"{prefix}*"):
        remove_abandoned(left, _ABANDONED_S)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    lock = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # Some network file systems know no locks: nothing is found abandoned there.
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def remove_abandoned(folder: Path, age_s: float) -> None:
    """Remove a folder of this user's that nobody locks and that has not changed for `age_s` seconds."""
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # It is gone by now, or another user's.
        return
    try:
        facts = os.fstat(handle)
        if facts.st_uid == os.getuid() and time.time() - facts.st_mtime > age_s:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # Its process lives.
        return
    finally:
        os.close(handle)
