"""Replacing a folder as a whole: whoever looks sees the old one or the new one, also when the writer is killed."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hcompile.locked_folder import remove_abandoned

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
# A folder is locked at once after it is made: one this old and not locked has lost its writer.
_ABANDONED_S = 60.0


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` that takes its place when the block ends without an error.

    The folder is locked while its writer lives. What killed writers left behind is removed first.

    Raises:
        OSError: the disk is full, or the place cannot be written; nothing is left behind.
    """
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        remove_abandoned(left, _ABANDONED_S)
    folder = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
    folder.mkdir()
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
        os.fsync(lock)
        _put(folder, target)
        sync(target.parent)
    finally:
        # By now it holds what stood at `target`, or what could not be finished.
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _put(folder: Path, target: Path) -> None:
    """Rename `folder` to `target`; a folder that stands there takes its place."""
    while True:
        try:
            return os.rename(folder, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        try:
            return _exchange(folder, target)
        except FileNotFoundError:
            if not folder.exists():
                raise


def _exchange(one: Path, other: Path) -> None:
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    names = os.fsencode(one), os.fsencode(other)
    if rename is not None and not rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE):
        return
    code = errno.ENOSYS if rename is None else ctypes.get_errno()
    if code not in (errno.ENOSYS, errno.EINVAL):
        raise OSError(code, os.strerror(code), str(other))
    # Some network file systems cannot exchange: for an instant nothing stands at `other`.
    aside = one.with_name(f"{one.name}.old")
    os.rename(other, aside)
    try:
        os.rename(one, other)
    except OSError:
        os.rename(aside, other)
        raise
    os.rename(aside, one)
