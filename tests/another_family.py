"""A family of patterns that no policy knows: code that is generic over families is tested with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from hcompile.patterns import Local, Pattern


@dataclass(frozen=True, slots=True)
class Sinks(Pattern):
    """Another family: sinks and the query itself."""

    sinks: int
    family: ClassVar[str] = "sinks"

    def params(self) -> tuple[int, int]:
        return 1, self.sinks

    def to_json(self) -> dict[str, Any]:
        return {"family": self.family, "sinks": self.sinks}

    def label(self) -> str:
        return f"sinks {self.sinks}"

    def hides(self, length: int) -> bool:
        return self.sinks < length

    def visited_pairs(self, q_len: int, kv_len: int, *, causal: bool) -> int:
        return Local(1, self.sinks).visited_pairs(q_len, kv_len, causal=causal)
