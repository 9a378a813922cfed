"""Dense attention: a head that sees every key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from hcompile.patterns.base import UNBOUNDED, Pattern, clipped_sum, register_family


@dataclass(frozen=True, slots=True)
class Dense(Pattern):
    """The head keeps full attention."""

    family: ClassVar[str] = "dense"

    def params(self) -> tuple[int, int]:
        return UNBOUNDED, 0

    def to_json(self) -> dict[str, Any]:
        return {"family": self.family}

    def label(self) -> str:
        return "dense"

    def hides(self, length: int) -> bool:
        return False

    def visited_pairs(self, q_len: int, kv_len: int, *, causal: bool) -> int:
        if not causal:
            return q_len * kv_len
        return clipped_sum(kv_len - q_len + 1, q_len, kv_len)


register_family(Dense.family, lambda fields: Dense(**fields), Dense)
