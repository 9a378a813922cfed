"""The manifest of an artifact: what it holds, what it was made of and for, and the hash of each file.

The hashes show damage and mixed-up files. They are no signature: whoever can change a file can change its hash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

SCHEMA = 1
MANIFEST, GRAPH, ORIGINAL, SCHEDULES, WEIGHTS = (
    "manifest.json",
    "graph.json",
    "original.json",
    "schedules.json",
    "weights.safetensors",
)


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
        if not {GRAPH, SCHEDULES, WEIGHTS} <= set(self.files) <= {GRAPH, ORIGINAL, SCHEDULES, WEIGHTS}:
            raise ValueError(
                f"an artifact holds {GRAPH}, {SCHEDULES} and {WEIGHTS}, this one {sorted(self.files)}"
            )

    def to_json(self) -> dict[str, Any]:
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, value: Any) -> Manifest:
        """Raises: ValueError, TypeError or KeyError when `value` is no manifest of this schema."""
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            raise ValueError(
                f"it is of schema {value.get('schema') if isinstance(value, dict) else None}, not {SCHEMA}"
            )
        fields = {name: item for name, item in value.items() if name != "schema"}
        axis = fields.get("length_axis")
        return cls(**{**fields, "length_axis": None if axis is None else (int(axis[0]), int(axis[1]))})
