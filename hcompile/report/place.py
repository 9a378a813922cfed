"""Where a page goes: tried before the work, written after it, as a whole or not at all."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from hcompile.errors import EnvironmentFault, UsageError

_NEEDED = ("jinja2", "matplotlib")


def check_place(path: Path, other: Path) -> None:
    """Find out before the work whether a page can be made, and written to `path`.

    Args:
        other: what the command reads or writes besides; the page may not take its place, nor lie in it.

    Raises:
        UsageError: jinja2 or matplotlib is not installed, or `path` is a folder, lies in none, or is `other`.
        EnvironmentFault: the file cannot be written.
    """
    for name in _NEEDED:
        if find_spec(name) is None:
            raise UsageError(f"the report needs {name}, which is missing: pip install 'hcompile[report]'")
    parent = path.absolute().parent
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file for the report, such as {path / 'report.html'}")
    if not parent.is_dir():
        raise UsageError(f"{parent}: no such folder for the report; create it first")
    taken = other.resolve()
    if taken in (path.resolve(), *path.resolve().parents):
        raise UsageError(f"{path}: the report would lie where {other} is; choose another place")
    half = _half(path)
    try:
        half.write_bytes(b"")
        half.unlink()
    except OSError as error:
        raise _fault(path, error) from error


def write_page(path: Path, html: str) -> None:
    """Put a page at `path`; whoever looks sees the old file or the new one.

    Raises:
        EnvironmentFault: it cannot be written; nothing is left behind.
    """
    half = _half(path)
    try:
        try:
            # Paths that are no UTF-8 reach the page as lone surrogates, which no encoding has.
            half.write_text(html, encoding="utf-8", errors="replace", newline="\n")
            half.replace(path)
        finally:
            half.unlink(missing_ok=True)
    except OSError as error:
        raise _fault(path, error) from error


def _half(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def _fault(path: Path, error: OSError) -> EnvironmentFault:
    return EnvironmentFault(f"{path}: the report cannot be written ({error.strerror}); choose another place")
