"""Writing an artifact: into a folder beside the target, then renamed, so that no half-written one is ever seen."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hcompile.artifact.manifest import GRAPH, MANIFEST, ORIGINAL, SCHEDULES, WEIGHTS, Manifest
from hcompile.errors import EnvironmentFault, UsageError
from hcompile.program import Program
from hcompile.program_json import program_to_json
from hcompile.runtime.dispatch import ScheduleTable


def check_target(path: Path) -> None:
    """Raise UsageError or EnvironmentFault before the work, not after it, if no artifact can be written to `path`."""
    if path.exists() and not (path / MANIFEST).is_file():
        raise UsageError(f"{path}: exists and is no artifact; choose another output or remove it")
    parent = path.absolute().parent
    if not parent.is_dir():
        raise UsageError(f"{parent}: no such folder for the output; create it first")
    if not os.access(parent, os.W_OK):
        raise EnvironmentFault(
            f"{parent}: the output folder cannot be written; choose another or change its permissions"
        )


def write_artifact(
    path: Path,
    program: Program,
    original: Program | None,
    tables: Mapping[str, ScheduleTable],
    facts: Mapping[str, Any],
) -> Manifest:
    """Write an artifact, replacing an older one at `path`.

    Args:
        program: the raised and selected program.
        original: the graph as exported, where the rewrite rests on assumptions.
        tables: schedules by site.
        facts: the manifest's fields but `aliases` and `files`.

    Raises:
        UsageError: `path` is taken by something else, or the graph cannot be written as data.
        EnvironmentFault: the disk is full or cannot be written; nothing is left behind.
    """
    check_target(path)
    target = path.absolute()
    documents = {
        GRAPH: program_to_json(program),
        SCHEDULES: {name: table.to_json() for name, table in tables.items()},
    }
    if original is not None:
        documents[ORIGINAL] = program_to_json(original)
    tensors = {**({} if original is None else original.tensors), **program.tensors}
    stored, aliases = _without_aliases(tensors)
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        for name, document in documents.items():
            _write(folder / name, json.dumps(document, separators=(",", ":"), allow_nan=False).encode())
        _write_weights(folder / WEIGHTS, stored)
        files = {name: file_sha256(folder / name) for name in [*documents, WEIGHTS]}
        manifest = Manifest(**facts, aliases=aliases, files=files)
        _write(folder / MANIFEST, json.dumps(manifest.to_json(), indent=1, allow_nan=False).encode())
        folder.chmod(0o755)
        _exchange(folder, target)
    except OSError as error:
        raise EnvironmentFault(
            f"{path}: the artifact could not be written ({error}); free space or choose another place"
        ) from error
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
    return manifest


def file_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _without_aliases(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    stored: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and place in seen:
            aliases[name] = seen[place]
            continue
        seen[place] = name
        # safetensors refuses views of one storage; a copy is made only of a tensor that is not all of its own.
        whole = (
            tensor.is_contiguous()
            and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
        )
        stored[name] = (
            tensor.detach() if whole else tensor.detach().clone(memory_format=torch.contiguous_format)
        )
    return stored, aliases


def _write(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _write_weights(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def _exchange(folder: Path, target: Path) -> None:
    """Put `folder` in the place of `target`; readers see the old artifact or the new one, or for an instant none."""
    if target.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
        target.rename(old / "artifact")
        try:
            folder.rename(target)
        except OSError:
            (old / "artifact").rename(target)
            raise
        finally:
            shutil.rmtree(old, ignore_errors=True)
    else:
        folder.rename(target)
