"""The zip file of an export archive, read so that nothing in it can mislead, flood or run.

`torch.export.save` writes a plain zip without compression: `<root>/archive_format` is `pt2`, `models/model.json` is the
graph, `data/weights` and `data/constants` hold one raw member a tensor and a JSON file that describes them, and
`data/sample_inputs/model.pt` is a pickle. Only this module opens the file; torch is handed what came out of it.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcompile.frontend.file_kind import BROKEN_ZIP, open_zip
from hcompile.frontend.messages import one_line

TRUST = "reading it could run code, so it is refused: pass --trust if you know where the file comes from"
AGAIN = "the archive is damaged: write it again with torch.export.save"

GRAPH = "models/model.json"
SAMPLE_INPUTS = "data/sample_inputs/model.pt"

_FORMAT = "archive_format"
_MOST_MEMBERS = 500_000
_MOST_JSON_BYTES = 1 << 29
_CHUNK_BYTES = 1 << 20


class Refused(Exception):
    """The archive is not read: `reason` says what is wrong where, `advice` what to do about it."""

    def __init__(self, reason: str, advice: str) -> None:
        super().__init__(f"{reason}; {advice}")


@dataclass(frozen=True, slots=True)
class Archive:
    """An open archive.

    Attributes:
        members: the members by their names below the root folder.
    """

    members: Mapping[str, zipfile.ZipInfo]
    _file: zipfile.ZipFile

    def size_bytes(self, name: str) -> int:
        """Return the length of a member, Refused if there is none of that name."""
        if name not in self.members:
            raise Refused(f"{name} is missing", AGAIN)
        return self.members[name].file_size

    def read(self, name: str) -> bytes:
        """Return a member's bytes, Refused if it is missing or its checksum is wrong."""
        content = bytearray(self.size_bytes(name))
        self.read_into(name, memoryview(content))
        return bytes(content)

    def read_into(self, name: str, buffer: memoryview) -> None:
        """Fill `buffer`, as long as the member, with its bytes."""
        try:
            with self._file.open(self.members[name]) as member:
                filled = 0
                # The checksum is compared where the member ends, so it is read to its end.
                while chunk := member.read(_CHUNK_BYTES):
                    buffer[filled : filled + len(chunk)] = chunk
                    filled += len(chunk)
            if filled < len(buffer):
                raise Refused(f"{name} is cut off", AGAIN)
        except BROKEN_ZIP as error:
            raise Refused(f"{name} cannot be read ({one_line(error)})", AGAIN) from error

    def read_json(self, name: str) -> Any:
        """Return the value of a JSON member."""
        if self.size_bytes(name) > _MOST_JSON_BYTES:
            raise Refused(f"{name} is longer than {_MOST_JSON_BYTES >> 20} MiB", AGAIN)
        try:
            return json.loads(self.read(name).decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise Refused(f"{name} is no JSON ({one_line(error)})", AGAIN) from error


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an export archive and check everything about it but the contents of its members.

    Raises:
        Refused: the zip file is damaged, or not as torch writes it.
    """
    try:
        file = open_zip(path)
    except BROKEN_ZIP as error:
        raise Refused(f"the zip file cannot be read ({one_line(error)})", AGAIN) from error
    with file:
        members = _checked_members(file.infolist(), path.stat().st_size)
        archive = Archive(members, file)
        _check_layout(archive)
        yield archive


def member_names(path: Path) -> frozenset[str]:
    """Return the names in a zip file without its root folder, empty if it cannot be read as a zip file."""
    try:
        with open_zip(path) as file:
            names = file.namelist()
    except BROKEN_ZIP:
        return frozenset()
    return frozenset(name.partition("/")[2] for name in names)


def is_export_archive(names: frozenset[str]) -> bool:
    """Tell an export archive by the names of its members, whatever the file's ending."""
    return _FORMAT in names


def _checked_members(entries: list[zipfile.ZipInfo], size_bytes: int) -> dict[str, zipfile.ZipInfo]:
    if len(entries) > _MOST_MEMBERS:
        raise Refused(f"the zip file has more than {_MOST_MEMBERS} members", AGAIN)
    if sum(entry.file_size for entry in entries) > size_bytes:
        raise Refused(
            "the members are larger together than the file: it would unpack to more than it holds", AGAIN
        )
    members: dict[str, zipfile.ZipInfo] = {}
    roots = set()
    for entry in entries:
        root, _, name = entry.filename.partition("/")
        shown = ascii(entry.filename)
        if entry.orig_filename != entry.filename or not _is_plain(entry.filename):
            raise Refused(f"the member name {shown} leaves the archive or is no plain path", AGAIN)
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise Refused(f"{shown} is compressed, which torch.export.save never does", AGAIN)
        if entry.flag_bits & 0x1:
            raise Refused(f"{shown} is encrypted", AGAIN)
        if name in members:
            raise Refused(f"{shown} is there twice", AGAIN)
        members[name] = entry
        roots.add(root)
    if len(roots) > 1:
        raise Refused(f"the zip file has {len(roots)} root folders instead of one", AGAIN)
    return members


def _is_plain(name: str) -> bool:
    parts = name.split("/")
    return len(parts) > 1 and name.isprintable() and not {"", ".", ".."} & set(parts) and "\\" not in name


def _check_layout(archive: Archive) -> None:
    if archive.read(_FORMAT) != b"pt2" or archive.read("archive_version").strip() != b"0":
        raise Refused("its format is not version 0 of pt2", "export the model with torch 2.11 to 2.13")
    if archive.members.get("byteorder") and archive.read("byteorder") != b"little":
        raise Refused("it was written on a big-endian machine", "export the model on this kind of machine")
    if native := [name for name in archive.members if name.startswith("data/aotinductor/")]:
        raise Refused(f"{native[0]} is compiled code", TRUST)
    for name in ("data/weights/model.pt", "data/constants/model.pt"):
        if name in archive.members:
            raise Refused(f"{name} is a pickle, as torch 2.8 and before wrote it", TRUST)
    models = sorted(name for name in archive.members if name.startswith("models/"))
    if models != [GRAPH]:
        raise Refused(f"it holds {', '.join(models[:3]) or 'no graph'} instead of {GRAPH} alone", AGAIN)
