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
        measured: the degradation over the repair documents.
        likely_bound: what the bound of a certificate would likely stay below (`statistics.likely_bound`).
        latency_us: predicted time of all attention of one row.
        accepted: the likely bound is within the budget, less repair's reserve.
    """

    stage: str
    plan: Plan
    predicted: float
    measured: float
    likely_bound: float
    latency_us: float
    accepted: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "stage": self.stage,
            "plan": self.plan.to_json(),
            "predicted": self.predicted,
            "measured": self.measured,
            "likely_bound": self.likely_bound,
            "latency_us": self.latency_us,
            "accepted": self.accepted,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Trial:
        """Raises: ValueError, TypeError or KeyError when `value` is no trial."""
        return cls(**{**value, "plan": Plan.from_json(value["plan"])})
