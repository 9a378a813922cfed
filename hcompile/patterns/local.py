"""Local attention: a sliding window, and the first tokens as sinks (StreamingLLM, arXiv:2309.17453)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from hcompile.patterns.base import UNBOUNDED, Pattern, register_family


@dataclass(frozen=True, slots=True)
class Local(Pattern):
    """The head sees keys less than `window` positions away, and the first `sinks` valid keys.

    In causal attention the window holds the query itself and the `window - 1` keys before it; in bidirectional
    attention it reaches `window - 1` keys to both sides.
    """

    window: int
    sinks: int = 0
    family: ClassVar[str] = "local"

    def __post_init__(self) -> None:
        for name, value, least in (("window", self.window, 1), ("sinks", self.sinks, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value < UNBOUNDED:
                raise ValueError(f"local pattern: {name} is {value!r}, wanted an integer from {least} to {UNBOUNDED - 1}")

    def params(self) -> tuple[int, int]:
        return self.window, self.sinks

    def to_json(self) -> dict[str, Any]:
        return {"family": self.family, "window": self.window, "sinks": self.sinks}

    def label(self) -> str:
        return f"local {self.window}+{self.sinks}"

    def visited_pairs(self, q_len: int, kv_len: int, *, causal: bool) -> int:
        total = 0
        for position in range(kv_len - q_len, kv_len):
            low = max(0, position - self.window + 1)
            high = position + 1 if causal else min(kv_len, position + self.window)
            sinks = min(self.sinks, position + 1 if causal else kv_len)
            # Sinks before the window, the window itself, and (bidirectional only) sinks past it.
            total += (high - low) + min(sinks, low) + max(0, sinks - high)
        return total


register_family(Local.family, lambda fields: Local(**fields))
