"""Changing an artifact on purpose, with or without the hashes that betray it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hcompile.artifact.manifest import MANIFEST, file_sha256


def copied(artifact: Path, folder: Path) -> Path:
    """Return a copy of an artifact that a test may damage."""
    return Path(shutil.copytree(artifact, folder / "damaged.hcm"))


def change_manifest(artifact: Path, **values: Any) -> None:
    document = json.loads((artifact / MANIFEST).read_text())
    (artifact / MANIFEST).write_text(json.dumps({**document, **values}))


def replace_file(artifact: Path, name: str, content: bytes) -> None:
    """Exchange a file and its hash: what somebody does who means it."""
    (artifact / name).write_bytes(content)
    files = json.loads((artifact / MANIFEST).read_text())["files"]
    change_manifest(artifact, files={**files, name: file_sha256(artifact / name)})


def change_json(artifact: Path, name: str, change: Callable[[Any], Any]) -> None:
    """Apply `change` to a JSON file (in place, or by what it returns) and fix its hash."""
    document = json.loads((artifact / name).read_text())
    changed = change(document)
    replace_file(artifact, name, json.dumps(document if changed is None else changed).encode())
