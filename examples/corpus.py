"""Where the bytes come from: Python source of the running interpreter, to train on and, apart, to measure on.

Training text is the source of installed packages with a permissive licence. The standard library is held
out: models are measured on it, so files that copy it are not trained on.
"""

from __future__ import annotations

import hashlib
import re
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

PERMISSIVE = re.compile(r"\b(MIT|0?BSD|Apache|ISC|PSF|Python Software Foundation|Zlib|Unlicense|CC0)", re.I)
OTHER = re.compile(r"GPL|MPL|Mozilla|Copyleft|Propriet|NVIDIA|Commercial", re.I)
HELD_OUT = {"test", "tests", "idlelib", "site-packages", "dist-packages", "__pycache__"}
LONGEST_FILE = 1_000_000
"""Bytes; what is longer is generated, tables mostly."""
COPIED_SHARE = 0.3
"""Share of its telling lines that a file may have in common with the standard library."""


@dataclass(frozen=True, slots=True)
class Source:
    """What one package gave to the training text."""

    name: str
    version: str
    licence: str
    bytes: int


def standard_library(shortest: int = 0) -> list[bytes]:
    """Source files of at least `shortest` bytes, in the order of their paths."""
    root = Path(sysconfig.get_paths()["stdlib"])
    paths = (p for p in sorted(root.rglob("*.py")) if not HELD_OUT & set(p.relative_to(root).parts))
    return [data for data in (path.read_bytes() for path in paths) if len(data) >= shortest]


def spread(texts: list[bytes], count: int) -> list[bytes]:
    """`count` of the texts, evenly spaced.

    Raises: ValueError if there are fewer.
    """
    if len(texts) < count:
        raise ValueError(f"asked for {count} texts, there are {len(texts)}")
    return [texts[i * len(texts) // count] for i in range(count)]


def _telling_lines(data: bytes) -> list[bytes]:
    """Lines long enough that two files seldom share one by chance."""
    return [line.strip() for line in data.splitlines() if len(line.strip()) >= 40]


def _licence(package: Distribution) -> str:
    """The licence a package states, or "" if it states none in one line."""
    metadata = package.metadata
    if "License-Expression" in metadata:
        return metadata["License-Expression"]
    classifiers = [line for line in metadata.get_all("Classifier") or [] if line.startswith("License ::")]
    if classifiers:
        return ", ".join(line.rpartition(" :: ")[2] for line in classifiers)
    stated = metadata["License"].strip() if "License" in metadata else ""
    return stated if len(stated) < 60 and "\n" not in stated else ""


def _source_files(package: Distribution) -> Iterator[bytes]:
    for file in sorted(package.files or (), key=str):
        path = Path(str(file.locate()))
        if file.suffix == ".py" and path.is_file() and 200 <= path.stat().st_size <= LONGEST_FILE:
            yield path.read_bytes()


def permissive_packages(search: Sequence[str] | None = None) -> tuple[bytes, list[Source]]:
    """Training text, each package's files one after the other, and what each package gave to it.

    `search` lists the folders packages are installed in, by default those of the interpreter.
    """
    held_out = {line for data in standard_library() for line in _telling_lines(data)}
    seen: set[bytes] = set()
    pieces: list[bytes] = []
    sources: list[Source] = []
    named = (
        package for package in distributions(path=list(search or sys.path)) if "Name" in package.metadata
    )
    packages = {package.metadata["Name"].lower(): package for package in named}
    for name, package in sorted(packages.items()):
        licence = _licence(package)
        if not PERMISSIVE.search(licence) or OTHER.search(licence):
            continue
        taken = 0
        for data in _source_files(package):
            digest = hashlib.sha256(data).digest()
            lines = _telling_lines(data)
            if digest in seen or sum(line in held_out for line in lines) > COPIED_SHARE * len(lines):
                continue
            seen.add(digest)
            pieces.append(data)
            taken += len(data)
        if taken:
            sources.append(Source(name, package.version, licence, taken))
    return b"\n".join(pieces), sources


def folder(path: Path) -> bytes:
    """Training text from a folder of Python source.

    Raises: FileNotFoundError if there is none in it.
    """
    files = sorted(path.rglob("*.py"))
    if not files:
        raise FileNotFoundError(f"no .py files under {path}")
    return b"\n".join(file.read_bytes() for file in files)
