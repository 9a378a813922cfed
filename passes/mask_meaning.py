"""What an attention mask can mean: the few forms that the operator computes without the mask itself."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class MaskMeaning:
    """Which keys a query sees by position; key padding comes on top.

    Attributes:
        causal: later keys are hidden.
        window: only keys less than `window` positions away are seen; None for no window.
    """

    causal: bool
    window: int | None = None

    def visible(self, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Return which of the positions `key` each of the positions `query` sees; the two broadcast."""
        distance = query - key
        seen = distance >= 0 if self.causal else torch.ones_like(distance, dtype=torch.bool)
        return seen if self.window is None else seen & (distance.abs() < self.window)

    def describe(self) -> str:
        kind = "causal" if self.causal else "bidirectional"
        return kind if self.window is None else f"{kind}, window {self.window}"
