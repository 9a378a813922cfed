"""One free choice of a kernel template."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hcompile.checks import check_int, check_text


@dataclass(frozen=True, slots=True)
class Axis:
    """A named integer with the values it may take.

    Attributes:
        choices: the values, rising.
        meaning: one line for people.
    """

    name: str
    choices: tuple[int, ...]
    meaning: str

    def __post_init__(self) -> None:
        check_text("axis name", self.name, 32)
        for choice in self.choices:
            check_int(f"choice of axis {self.name}", choice)
        if not self.choices or list(self.choices) != sorted(set(self.choices)):
            raise ValueError(f"axis {self.name}: choices {self.choices} do not rise")

    def encode(self, value: int) -> float:
        """Return the value as a cost model sees it: sizes act by their ratio, so as a logarithm."""
        return math.log2(1 + value)
