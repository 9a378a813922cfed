"""Global tokens: the first tokens of a text, such as its instructions, are seen by all; others see a sliding window.

The global attention of Longformer (arXiv:2004.05150) for causal sites, where the first tokens see all that stands
before them anyway. In both directions they would have to see all, for which there is no kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from hcompile.patterns.base import Pattern, register_family
from hcompile.patterns.local import Local


@dataclass(frozen=True, slots=True)
class GlobalTokens(Pattern):
    """The head sees keys less than `window` positions away, and the first `tokens` valid keys; causal sites only."""

    tokens: int
    window: int
    family: ClassVar[str] = "global"

    def __post_init__(self) -> None:
        try:
            Local(self.window, self.tokens)
        except ValueError as error:
            raise ValueError(
                f"global tokens: {self.tokens!r} tokens, window {self.window!r} ({error})"
            ) from None

    def params(self) -> tuple[int, int]:
        return self.window, self.tokens

    def to_json(self) -> dict[str, Any]:
        return {"family": self.family, "tokens": self.tokens, "window": self.window}

    def label(self) -> str:
        return f"global {self.tokens}+{self.window}"

    def hides(self, length: int) -> bool:
        return self.tokens + self.window < length

    def serves(self, *, causal: bool) -> bool:
        return causal

    def visited_pairs(self, q_len: int, kv_len: int, *, causal: bool) -> int:
        return Local(self.window, self.tokens).visited_pairs(q_len, kv_len, causal=causal)


MENU = tuple(GlobalTokens(tokens, window) for tokens in (256, 1024) for window in (64, 256, 1024))

register_family(GlobalTokens.family, lambda fields: GlobalTokens(**fields), GlobalTokens, MENU)
