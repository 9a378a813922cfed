"""Routed attention: a head reads the fewest blocks of keys that hold a share of its attention, found at run time.

The rule is that of `hcompile.routing`. What it reads depends on the input, so that a plan carries what was measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from hcompile.patterns.base import Pattern, register_family
from hcompile.patterns.blocks import EVERY_KEY, LIST_BLOCK, LIST_WINDOW, WHOLE
from hcompile.patterns.dense import Dense

if TYPE_CHECKING:
    import torch

ALWAYS_BLOCKS = 3
"""Blocks of keys that a block of queries may read whatever it looks for: the first, its own, and one more where
queries do not begin with a block of keys."""


@dataclass(frozen=True, slots=True)
class Routed(Pattern):
    """Blocks of 64 queries read the blocks of 64 keys that hold `share` thousandths of their attention.

    Attributes:
        share: from 0 to 1000, of the attention as every 8th key tells.
        kept: thousandths of the dense pairs that it read where it was measured, which is at the length and on the
            calibration documents of its plan; None where it was not, and then all of them count.
    """

    share: int
    kept: int | None = None
    family: ClassVar[str] = "routed"

    def __post_init__(self) -> None:
        for name, value in (("share", self.share), ("kept", self.kept)):
            there = value is not None or name == "share"
            if there and (type(value) is not int or not 0 <= value <= WHOLE):
                raise ValueError(f"routed pattern: {name} is {value!r}, wanted an integer from 0 to {WHOLE}")

    def params(self) -> tuple[int, int]:
        return LIST_WINDOW, self.share

    def to_json(self) -> dict[str, Any]:
        measured = {} if self.kept is None else {"kept": self.kept}
        return {"family": self.family, "share": self.share, **measured}

    def label(self) -> str:
        return f"routed {self.share}" + ("" if self.kept is None else f"+{self.kept}")

    def hides(self, length: int) -> bool:
        return length > ALWAYS_BLOCKS * LIST_BLOCK

    def alike(self) -> Pattern:
        """Return a share that keeps as many blocks of random inputs, whose attention is alike everywhere."""
        kept = WHOLE if self.kept is None else self.kept
        return Routed(min(WHOLE, -(-kept // _STEP) * _STEP))

    def timed_as(self) -> tuple[tuple[float, Pattern], ...]:
        kept = 1.0 if self.kept is None else self.kept / WHOLE
        return ((1.0 - kept, Routed(0)), (kept, Routed(WHOLE)))

    def measured(self, kept: float) -> Pattern:
        return Routed(self.share, min(WHOLE, math.ceil(kept * WHOLE)))

    def visible(self, position: torch.Tensor, key: torch.Tensor, start: torch.Tensor) -> torch.Tensor:
        """Return what is read whatever the input: the first block, and that of the query."""
        near = position // LIST_BLOCK == key // LIST_BLOCK
        return near | (key // LIST_BLOCK == start // LIST_BLOCK)

    def visited_pairs(self, q_len: int, kv_len: int, *, causal: bool) -> int:
        """Count what was measured, as a share of the dense pairs, and the estimate: scores without values, so half."""
        dense = Dense().visited_pairs(q_len, kv_len, causal=causal)
        if not self.hides(kv_len):
            return dense
        kept = WHOLE if self.kept is None else self.kept
        return min(dense, dense * kept // WHOLE + dense // (2 * EVERY_KEY))


_STEP = 100
"""Shares in which kernels are timed."""

MENU = tuple(Routed(share) for share in (700, 800, 900, 950, 980))

register_family(Routed.family, lambda fields: Routed(**fields), Routed, MENU)
