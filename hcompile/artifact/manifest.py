"""The manifest of an artifact: what it holds, what it was made of and for, and the hash of each file.

The hashes show damage and mixed-up files. They are no signature: whoever can change a file can change its hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hcompile.checks import check_int, check_object, check_sha256, check_text, shown
from hcompile.policy.certificate import Certificate
from hcompile.runtime.crossover import Crossover

SCHEMA = 2
_READABLE = (1, SCHEMA)
"""Schema 1 knew a crossover of batch 1 only."""

MANIFEST, GRAPH, ORIGINAL, SCHEDULES, WEIGHTS = (
    "manifest.json",
    "graph.json",
    "original.json",
    "schedules.json",
    "weights.safetensors",
)
NAMES = frozenset({MANIFEST, GRAPH, ORIGINAL, SCHEDULES, WEIGHTS})
"""All that an artifact's folder may hold."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """See the module's docstring.

    Attributes:
        versions: of hcompile, torch and the kernel generator that made the artifact.
        source: the model's path or factory, for people.
        kind: "transformers", "archive" or "module".
        dtype: of the weights and activations.
        backend: name of the kernel backend.
        device: the machine that the schedules were tuned on; None where none were.
        linear_library: which library multiplied weight matrices faster there (`hcompile.passes.linear`).
        length_axis: (input, axis) of the size that attention runs over, None where it is fixed.
        crossover: JSON form of `hcompile.runtime.crossover.Crossover`.
        certificate: JSON form of the certificate, None where quality was not measured.
        aliases: name of a tensor to the stored tensor that it shares.
        files: name of each other file to its sha256.
        notes: figures of the optimization for people and reports.
    """

    versions: Mapping[str, str]
    source: str
    kind: str
    dtype: str
    backend: str
    device: Mapping[str, Any] | None
    linear_library: str
    length_axis: tuple[int, int] | None
    crossover: Mapping[str, Any]
    certificate: Mapping[str, Any] | None
    aliases: Mapping[str, str]
    files: Mapping[str, str]
    notes: Mapping[str, Any]

    def __post_init__(self) -> None:
        for name in ("source", "kind", "dtype", "backend", "linear_library"):
            check_text(name, getattr(self, name), 4096)
        if not self.backend.isidentifier():
            # A backend elsewhere is imported by name: an artifact must not choose code to run.
            raise ValueError(f"backend {shown(self.backend)} is not one of hcompile's own")
        for name in ("versions", "device", "crossover", "certificate", "aliases", "files", "notes"):
            value = getattr(self, name)
            if not isinstance(value, Mapping) and (
                value is not None or name not in ("device", "certificate")
            ):
                raise ValueError(f"{name} is {shown(value)}, wanted an object")
        for name, stored in self.aliases.items():
            check_text(f"tensor that {name} stands for", stored)
        if self.length_axis is not None:
            for place in self.length_axis:
                check_int("length_axis", place)
        if not {GRAPH, SCHEDULES, WEIGHTS} <= set(self.files) <= NAMES - {MANIFEST}:
            raise ValueError(
                f"an artifact holds {GRAPH}, {SCHEDULES} and {WEIGHTS}, this one {sorted(self.files)}"
            )
        for name, digest in self.files.items():
            check_sha256(name, digest)
        Crossover.from_json(self.crossover)

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, value: Any) -> Manifest:
        """Read a manifest, its certificate and its crossover brought to today's form.

        Raises:
            ValueError or TypeError: `value` is no manifest of a schema that can be read.
        """
        schema = value.get("schema") if isinstance(value, dict) else None
        if schema not in _READABLE:
            readable = " and ".join(map(str, _READABLE))
            raise ValueError(f"it is of schema {shown(schema)}, this hcompile reads {readable}")
        found = dict(check_object("it", value, ("schema", *(field.name for field in fields(cls)))))
        del found["schema"]
        if found["length_axis"] is not None:
            index, axis = found["length_axis"]
            found["length_axis"] = (index, axis)
        found["crossover"] = Crossover.from_json(found["crossover"]).to_json()
        if isinstance(found["certificate"], dict):
            found["certificate"] = Certificate.from_json(found["certificate"]).to_json()
        return cls(**found)


def file_sha256(path: Path) -> str:
    """Return the sha256 (hex) of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
