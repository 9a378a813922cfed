"""The policy's memory in the tuning database: results keyed by weights, data and code."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import hcompile
from hcompile.program import Program
from hcompile.tuning_db.result import ResultKey
from hcompile.tuning_db.store import TuningDB
from hcompile.values import sha256_json

_CODE = (
    *(
        "operator.py",
        "refit_operator.py",
        "far_field.py",
        "linear_operator.py",
        "reference.py",
        "program.py",
    ),
    *("patterns", "passes", "policy", "runtime", "codegen"),
)
"""What decides a quality measurement: a change in any of it makes old ones unfit."""

_SUFFIXES = (".py", ".c", ".h")


class StoredMemory:
    """Implements `hcompile.policy.memory.Memory` for one program on one machine."""

    def __init__(self, db: TuningDB, program: Program, facts: Mapping[str, Any]) -> None:
        """`facts`: whatever else decides results: the graph, dtype, device, libraries."""
        self._db = db
        self._weights = weights_sha256(program)
        self._code = code_sha256()
        self._facts = dict(facts)

    def recall(self, kind: str, key: Mapping[str, Any]) -> Any | None:
        return self._db.get_result(self._key(kind, key))

    def keep(self, kind: str, key: Mapping[str, Any], value: Any) -> None:
        self._db.put_result(self._key(kind, key), value)

    def _key(self, kind: str, key: Mapping[str, Any]) -> ResultKey:
        return ResultKey.of(
            kind,
            weights_sha256=self._weights,
            data_sha256=sha256_json(key),
            code_sha256=self._code,
            extra=self._facts,
        )


def weights_sha256(program: Program) -> str:
    """Return the sha256 of a program's tensors by name, less the parameters of its attention nodes."""
    state = hashlib.sha256()
    for name, tensor in sorted(program.tensors.items()):
        if not name.startswith("hcompile_params_"):
            state.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}:".encode())
            state.update(tensor.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy().tobytes())
    return state.hexdigest()


def code_sha256() -> str:
    """Return the sha256 of the source that decides what a quality measurement gives."""
    state = hashlib.sha256()
    for file in code_files():
        state.update(file.read_bytes())
    return state.hexdigest()


def code_files() -> list[Path]:
    """Return the files of that source."""
    root = Path(hcompile.__file__).parent
    places = (root / part for part in _CODE)
    found = (file for place in places for file in ([place] if place.is_file() else sorted(place.rglob("*"))))
    return [file for file in found if file.suffix in _SUFFIXES]
