"""Linear attention to what lies outside a window: a head sees near keys exactly, and the rest through learned features.

The rule is that of `hcompile.far_field`. Its maps are learnt from calibration text, so the family is there for those
who name it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from hcompile.patterns.base import Pattern, register_family
from hcompile.patterns.dense import Dense
from hcompile.patterns.local import Local

if TYPE_CHECKING:
    import torch

FEATURES = 16
"""Of every head: 32 and 64 lose less, and cost more than they save (docs/adr/0018)."""


@dataclass(frozen=True, slots=True)
class Linear(Pattern):
    """The head sees keys less than `window` positions away and the first `sinks` valid keys, as `Local` does, and all
    others through the sums of its features. Causal attention only."""

    window: int
    sinks: int = 0
    widening: int = field(default=0, kw_only=True)
    family: ClassVar[str] = "linear"
    has_far_field: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self._near()  # The same numbers, and the same error.

    def _near(self) -> Local:
        """Return what is seen exactly."""
        return Local(self.window, self.sinks, widening=self.widening)

    def params(self) -> tuple[int, int]:
        return self._near().params()

    def at(self, length: int) -> Linear:
        return Linear(self._near().at(length).window, self.sinks)

    def widened(self, length: int, share: float) -> Linear:
        near = self._near().widened(length, share)
        return Linear(near.window, near.sinks, widening=near.widening)

    def to_json(self) -> dict[str, Any]:
        return {**self._near().to_json(), "family": self.family}

    def label(self) -> str:
        return self._near().label().replace(Local.family, self.family, 1)

    def hides(self, length: int) -> bool:
        return self._near().hides(length)

    def serves(self, *, causal: bool) -> bool:
        return causal

    def alike(self) -> Pattern:
        return self._near()

    def timed_as(self) -> tuple[tuple[float, Pattern], ...]:
        return ((1.0, self._near()),)

    def visible(self, position: torch.Tensor, key: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Return what is seen exactly."""
        return self._near().visible(position, key, start)

    def visited_pairs(self, q_len: int, kv_len: int, *, causal: bool) -> int:
        """Count the near pairs, and for every query and every key as many as it has features: to weigh or make up the
        sums takes two products for each, as a pair does."""
        near = self._near().visited_pairs(q_len, kv_len, causal=causal)
        dense = Dense().visited_pairs(q_len, kv_len, causal=causal)
        return min(dense, near + FEATURES * (q_len + kv_len) if self.hides(kv_len) else dense)


MENU = tuple(
    Linear(window, 16) for window in (32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096)
)

register_family(Linear.family, lambda fields: Linear(**fields), Linear, MENU, learned=True)
