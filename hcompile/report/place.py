"""Where a page goes: looked at before the work, written after it, as a whole or not at all."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from hcompile.errors import EnvironmentFault, UsageError

_NEEDED = ("jinja2", "matplotlib")


def check_place(path: Path) -> None:
    """Look before the work whether a page can be made and written.

    Raises:
        UsageError: jinja2 or matplotlib is not installed, or `path` names a folder or lies in none.
        EnvironmentFault: the folder cannot be written.
    """
    for name in _NEEDED:
        if not _installed(name):
            raise UsageError(f"--report needs {name}, which is not installed: pip install 'hcompile[report]'")
    parent = path.absolute().parent
    if path.is_dir():
        raise UsageError(f"{path}: is a folder; name a file for the report, such as {path / 'report.html'}")
    if not parent.is_dir():
        raise UsageError(f"{parent}: no such folder for the report; create it first")
    if not os.access(parent, os.W_OK):
        raise EnvironmentFault(f"{parent}: the report's folder cannot be written; choose another")


def write_page(path: Path, html: str) -> None:
    """Put a page at `path`; whoever looks sees the old file or the new one.

    Raises:
        EnvironmentFault: it cannot be written; nothing is left behind.
    """
    half = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            half.write_text(html, encoding="utf-8", newline="\n")
            half.replace(path)
        finally:
            half.unlink(missing_ok=True)
    except OSError as error:
        raise EnvironmentFault(
            f"{path}: the report could not be written ({error.strerror}); choose another place"
        ) from error


def _installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except ValueError:
        # The module is there without a spec, as one made by hand is; None in its place raises too.
        return False
