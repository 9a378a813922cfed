"""Writing an artifact: into a folder beside the target, then renamed, so that no half-written one is ever seen."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hcompile.artifact.manifest import (
    GRAPH,
    MANIFEST,
    NAMES,
    ORIGINAL,
    SCHEDULES,
    WEIGHTS,
    Manifest,
    file_sha256,
)
from hcompile.artifact.replace import replacing, sync
from hcompile.errors import EnvironmentFault, UsageError
from hcompile.passes.place import place_both
from hcompile.program import Program
from hcompile.program_json import program_from_json, program_to_json
from hcompile.runtime.dispatch import ScheduleTable


def check_target(path: Path) -> None:
    """Raise UsageError or EnvironmentFault before the work, not after it, if no artifact can be written to `path`."""
    if path.exists():
        found = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
        if MANIFEST not in found:
            raise UsageError(f"{path}: exists and is no artifact; choose another output or remove it")
        if others := sorted(found - NAMES):
            raise UsageError(
                f"{path}: holds {others[0]}, which is no part of an artifact; choose another output"
            )
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
    program, original = place_both(program, original, torch.device("cpu"))
    documents = {
        GRAPH: program_to_json(program),
        SCHEDULES: {name: table.to_json() for name, table in tables.items()},
    }
    if original is not None:
        documents[ORIGINAL] = program_to_json(original)
    tensors = {**({} if original is None else original.tensors), **program.tensors}
    for name in documents.keys() - {SCHEDULES}:
        program_from_json(documents[name], tensors)  # what could not be read is not written
    stored, aliases = _without_aliases(tensors)
    try:
        with replacing(path.resolve()) as folder:
            for name, document in documents.items():
                _write_json(folder / name, document)
            _write_weights(folder / WEIGHTS, stored)
            files = {name: file_sha256(folder / name) for name in [*documents, WEIGHTS]}
            manifest = Manifest(**facts, aliases=aliases, files=files)
            _write_json(folder / MANIFEST, manifest.to_json())
    except OSError as error:
        reason = error.strerror or error
        raise EnvironmentFault(
            f"{path}: the artifact could not be written ({reason}); free space or choose another place"
        ) from error
    return manifest


def _without_aliases(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    stored: dict[str, torch.Tensor] = {}
    aliases: dict[str, str] = {}
    seen: dict[tuple[Any, ...], str] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and place in seen:
            aliases[name] = seen[place]
            continue
        seen[place] = name
        # safetensors refuses views of one storage; a copy is made only of a tensor that is not all of its own, or not
        # the first of it.
        storage = tensor.untyped_storage()
        whole = (
            tensor.is_contiguous()
            and storage.nbytes() == tensor.numel() * tensor.element_size()
            and storage.data_ptr() not in storages
        )
        storages.add(storage.data_ptr())
        stored[name] = (
            tensor.detach() if whole else tensor.detach().clone(memory_format=torch.contiguous_format)
        )
    return stored, aliases


def _write_json(path: Path, document: Any) -> None:
    path.write_text(json.dumps(document, separators=(",", ":"), allow_nan=False))
    sync(path)


def _write_weights(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        raise OSError(str(error)) from error
    # safetensors lets nobody but the owner read what it writes; the folder has the permissions of the user's mask.
    path.chmod(path.parent.stat().st_mode & 0o666)
    sync(path)
