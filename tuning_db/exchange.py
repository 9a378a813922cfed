"""The exchange form of records: JSON lines between a header and a trailer with their number and sha256.

The hash tells damage, not who wrote the file. Keys' hashes are not in it: a reader computes its own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn
from uuid import uuid4

from hcompile.errors import EnvironmentFault, UsageError
from hcompile.tuning_db.record import Record
from hcompile.values import canonical_json

HEADER = {"format": "hcompile.tuning-records", "schema": 1}

_MOST_LINE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did.

    Attributes:
        added, replaced, duplicate: records that were new, newer than ours, and not newer than ours.
        refused: why others were refused, with their lines.
    """

    added: int
    replaced: int
    duplicate: int
    refused: tuple[str, ...]


def write_export(path: Path, records: Iterable[Record]) -> int:
    """Write the records and return their number; the file appears whole or not at all.

    Raises:
        UsageError: something that is no file stands at `path`.
        EnvironmentFault: the file cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{uuid4().hex}")
    try:
        if path.exists() and not path.is_file():
            raise UsageError(f"export {path} is no regular file: name a file to write")
        try:
            count = _write(unfinished, records)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise EnvironmentFault(
            f"export {path} cannot be written ({reason}): give another place, or free some space"
        ) from error
    return count


def read_export(path: Path) -> Iterator[tuple[int, Record | ValueError]]:
    """Yield the line number and the record of every record line, or what is wrong with it.

    That the file is whole and unchanged is known only after the last one: keep nothing before.

    Raises:
        UsageError: the file is missing, no export, cut short or changed.
    """
    digest, number, trailer = hashlib.sha256(), 0, None
    for number, line in enumerate(_read_lines(path), start=1):
        if trailer is not None:
            _refuse(path, f"line {number} comes after the trailer")
        value = _parse(line)
        if number == 1:
            if value != HEADER:
                _refuse(path, f"its first line is not {canonical_json(HEADER)}")
        elif isinstance(value, dict) and "sha256" in value:
            trailer = value
            continue
        else:
            yield number, _record(value)
        digest.update(line)
    if trailer is None:
        _refuse(path, "it has no trailer with the sha256 of its lines, so it is cut short")
    if trailer != {"records": number - 2, "sha256": digest.hexdigest()}:
        _refuse(path, "its records do not have the sha256 of its trailer, so it was changed or damaged")


def _write(path: Path, records: Iterable[Record]) -> int:
    digest, count = hashlib.sha256(), -1  # The header is no record.
    with path.open("xb") as file:
        for value in chain([HEADER], (record.to_json() for record in records)):
            line = _line(value)
            file.write(line)
            digest.update(line)
            count += 1
        file.write(_line({"records": count, "sha256": digest.hexdigest()}))
        file.flush()
        os.fsync(file.fileno())
    return count


def _line(value: Any) -> bytes:
    return canonical_json(value).encode() + b"\n"


def _read_lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while line := file.readline(_MOST_LINE_BYTES):
                yield line
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"import {path} cannot be read ({reason}): name a file of db export") from error


def _parse(line: bytes) -> Any:
    """Return the JSON value of a line, or the ValueError that says why it has none."""
    try:
        return json.loads(line.decode())
    except ValueError as error:
        return error
    except RecursionError:
        return ValueError("nested too deep")


def _record(value: Any) -> Record | ValueError:
    if isinstance(value, ValueError):
        return value
    try:
        return Record.from_json(value)
    except ValueError as error:
        return error


def _refuse(path: Path, reason: str) -> NoReturn:
    raise UsageError(f"import {path} is refused, nothing was added: {reason}; export it again")
