"""A site: one attention of the model, as the compiler names it everywhere."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from typing import Any

from hcompile.checks import check_bool, check_int, check_object, check_text, shown
from hcompile.patterns import UNBOUNDED


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
        check_text("site name", self.name)
        check_int(f"site {self.name}: layer", self.layer)
        for field in ("q_heads", "kv_heads", "head_dim"):
            check_int(f"site {self.name}: {field}", getattr(self, field), 1, UNBOUNDED)
        if self.q_heads % self.kv_heads:
            raise ValueError(
                f"site {self.name}: {self.q_heads} query heads are no multiple of {self.kv_heads} KV heads"
            )
        if type(self.scale) not in (int, float) or not math.isfinite(self.scale):
            raise ValueError(f"site {self.name}: scale is {shown(self.scale)}, wanted a finite number")
        check_bool(f"site {self.name}: causal", self.causal)
        if self.window is not None:
            check_int(f"site {self.name}: window", self.window, 1)

    @property
    def group(self) -> int:
        """Query heads per KV head."""
        return self.q_heads // self.kv_heads

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> Site:
        """Raises: ValueError when `value` is no site."""
        return cls(**check_object("site", value, (field.name for field in fields(cls))))
