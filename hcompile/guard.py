"""A guard: an assumption on a call's inputs, under which the raised graph equals the original."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

KINDS = ("binary",)


@dataclass(frozen=True, slots=True)
class Guard:
    """One assumption.

    Attributes:
        kind: "binary": every element of the input is 0 or 1.
        input: name of the input it speaks of.
    """

    kind: str
    input: str

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"guard of kind {self.kind!r} is unknown (known: {', '.join(KINDS)})")

    def holds(self, value: torch.Tensor) -> bool:
        """Evaluate the guard on the value of its input."""
        return bool(((value == 0) | (value == 1)).all())

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "input": self.input}
