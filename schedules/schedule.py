"""A schedule: one point of a template's space, as a value with one JSON form that files and records share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hcompile.checks import check_int, check_object, check_text, shown
from hcompile.values import canonical_json


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which template generates a kernel, and the value of each of its axes.

    Attributes:
        values: (axis, value) pairs, each axis once; kept sorted by axis.
    """

    template: str
    values: tuple[tuple[str, int], ...]

    def __post_init__(self) -> None:
        check_text("schedule template", self.template, 64)
        object.__setattr__(self, "values", tuple(sorted(self.values)))
        names = [name for name, _ in self.values]
        if len(set(names)) != len(names):
            raise ValueError(f"schedule: axes {names} come twice")
        for name, value in self.values:
            check_text("schedule axis", name, 32)
            check_int(f"schedule axis {name}", value)

    @classmethod
    def of(cls, template: str, values: Mapping[str, int]) -> Schedule:
        return cls(template, tuple(values.items()))

    @property
    def text(self) -> str:
        """The canonical JSON text."""
        return canonical_json(self.to_json())

    def __getitem__(self, axis: str) -> int:
        for name, value in self.values:
            if name == axis:
                return value
        raise KeyError(axis)

    def to_json(self) -> dict[str, Any]:
        return {"template": self.template, "values": dict(self.values)}

    @classmethod
    def from_json(cls, value: Any) -> Schedule:
        """Raises: ValueError that says what is wrong with the form."""
        form = check_object("schedule", value, ("template", "values"))
        if not isinstance(form["values"], dict):
            raise ValueError(f"schedule values are {shown(form['values'])}, wanted an object")
        return cls.of(form["template"], form["values"])
