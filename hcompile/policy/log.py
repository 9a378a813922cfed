"""The log of measured plans: what was tried, what was predicted, what came out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hcompile.plan import Plan


@dataclass(frozen=True, slots=True)
class Trial:
    """One plan, measured jointly on the repair documents.

    Attributes:
        stage: what proposed it: "profile" (the expansion around the dense plan) or "refine" (around a measured one).
        predicted: the degradation that the allocation counted with.
        measured: the degradation over the repair documents, by budget.
        likely_bound: what the bound of a certificate would likely stay below (`statistics.likely_bound`), by budget.
        used: the likely bound as a share of the limit less repair's reserve, by budget.
        latency_us: predicted time of all attention of one row.
    """

    stage: str
    plan: Plan
    predicted: float
    measured: tuple[float, ...]
    likely_bound: tuple[float, ...]
    used: tuple[float, ...]
    latency_us: float

    def __post_init__(self) -> None:
        if not len(self.measured) == len(self.likely_bound) == len(self.used) > 0:
            raise ValueError(
                f"trial: {self.measured}, {self.likely_bound} and {self.used} differ in length or are empty"
            )

    @property
    def tightest(self) -> float:
        """What is used of the budget that is nearest to its limit, or furthest beyond."""
        return max(self.used)

    @property
    def accepted(self) -> bool:
        """Whether every budget is likely to hold, with the reserve left."""
        return self.tightest <= 1

    def to_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "plan": self.plan.to_json(),
            "predicted": self.predicted,
            "measured": list(self.measured),
            "likely_bound": list(self.likely_bound),
            "used": list(self.used),
            "latency_us": self.latency_us,
            "accepted": self.accepted,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Trial:
        """Raises: ValueError, TypeError or KeyError when `value` is no trial."""
        found = {name: field for name, field in value.items() if name != "accepted"}
        by_budget = {name: tuple(map(float, found[name])) for name in ("measured", "likely_bound", "used")}
        return cls(**{**found, **by_budget, "plan": Plan.from_json(value["plan"])})
