"""A quality budget: a metric and the largest degradation that is allowed, such as `kl=0.003`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

RESERVE = 0.1
"""Share of a budget that the choice of a plan leaves alone unless told otherwise: text only like the calibration's may
lose more (docs/adr/0007)."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A hard limit on a measured degradation.

    Attributes:
        metric: the registered name of the metric.
        limit: largest degradation, in the metric's own unit, as the user wrote it (`cosine=0.999` is the least
            similarity; the metric turns it into a degradation of 0.001).
    """

    metric: str
    limit: float

    def __post_init__(self) -> None:
        if not self.metric or self.metric != self.metric.strip():
            raise ValueError(f"budget: {self.metric!r} is no metric's name")
        if not math.isfinite(self.limit) or self.limit < 0:
            raise ValueError(
                f"budget: limit of {self.metric} is {self.limit}, wanted a finite number, not negative"
            )

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read `metric=number` or `metric=number%`.

        Raises:
            ValueError: the text has another form, or the number is not finite or negative.
        """
        metric, equals, number = (part.strip() for part in text.partition("="))
        scale = 0.01 if number.endswith("%") else 1.0
        try:
            limit = float(number.removesuffix("%")) * scale
        except ValueError:
            limit = math.nan
        if not equals or not metric or not math.isfinite(limit) or limit < 0:
            raise ValueError(
                f"budget {text!r} is not of the form metric=number or metric=number%, such as kl=0.003"
            )
        return cls(metric, limit)

    def to_json(self) -> dict[str, Any]:
        return {"metric": self.metric, "limit": self.limit}
