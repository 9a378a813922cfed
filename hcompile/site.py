"""A site: one attention of the model, as the compiler names it everywhere."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Site:
    """One attention node.

    Attributes:
        name: unique in the program and stable across exports, such as `model.layers.5.self_attn`.
        layer: position among the program's attention nodes, in execution order, from 0.
        q_heads: query heads Hq. `kv_heads` divides it; query head `h` reads KV head `h // (q_heads // kv_heads)`.
        head_dim: D, equal for Q, K and V.
        scale: factor on Q K^T.
        causal: key `j` is hidden from queries at positions before `j`.
        window: the model's own sliding window, or None. A plan may narrow it, never widen it.
    """

    name: str
    layer: int
    q_heads: int
    kv_heads: int
    head_dim: int
    scale: float
    causal: bool
    window: int | None = None

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a site needs a name")
        if self.q_heads < 1 or self.kv_heads < 1 or self.q_heads % self.kv_heads:
            raise ValueError(f"site {self.name}: {self.q_heads} query heads are no multiple of {self.kv_heads} KV heads")
        if self.head_dim < 1 or not math.isfinite(self.scale) or self.layer < 0:
            raise ValueError(f"site {self.name}: head_dim {self.head_dim}, scale {self.scale} or layer {self.layer} is wrong")
        if self.window is not None and self.window < 1:
            raise ValueError(f"site {self.name}: window {self.window} is below 1")

    @property
    def group(self) -> int:
        """Query heads per KV head."""
        return self.q_heads // self.kv_heads

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Site:
        """Raises: ValueError or TypeError when `value` is no site."""
        return cls(**value)
