"""What the sections of a run's page read: the report, with its parts in the types that they have elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from hcompile.errors import UsageError
from hcompile.patterns import Pattern
from hcompile.pipeline.report import OptimizeReport
from hcompile.plan import own_pattern
from hcompile.policy.certificate import Certificate
from hcompile.policy.log import Trial
from hcompile.runtime.crossover import Crossover, Timing
from hcompile.site import Site


@dataclass(frozen=True, slots=True)
class Facts:
    """See the module's docstring.

    Attributes:
        length: tokens that the plan was made for, 0 where the report does not say.
        trials: plans that the policy measured, in order.
        dense_us: predicted time of all attention of one row under the dense plan, None where no policy ran.
        timings: whole calls of both graphs.
    """

    report: OptimizeReport
    length: int
    certificate: Certificate | None
    trials: tuple[Trial, ...]
    dense_us: float | None
    crossover: Crossover

    @classmethod
    def of(cls, report: OptimizeReport) -> Facts:
        """Raises: UsageError when a part of the report is not what it should be."""
        try:
            policy = report.policy or {"trials": [], "dense_latency_us": None}
            return cls(
                report=report,
                length=max(report.removed, default=0),
                certificate=None
                if report.certificate is None
                else Certificate.from_json(dict(report.certificate)),
                trials=tuple(Trial.from_json(trial) for trial in policy.get("trials", ())),
                dense_us=policy.get("dense_latency_us"),
                crossover=Crossover() if report.crossover is None else Crossover.from_json(report.crossover),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise UsageError(f"the report cannot be shown: {error}") from error

    @property
    def run(self) -> Mapping[str, Any]:
        return self.report.run or {}

    @property
    def sites(self) -> tuple[Site, ...]:
        return self.report.sites

    @property
    def why_dense(self) -> str:
        """Why the model was left as it is, "" where it was not."""
        report = self.report
        if report.why_dense:
            return report.why_dense
        if report.outcome != "dense":
            return ""
        if report.broken:
            return f"the certified bound of {' and '.join(report.broken)} is above the budget"
        return "the plan was not certified"

    def documents(self, use: str) -> str:
        """Return how many documents there were for a use, such as `64 repair documents`."""
        known = (self.run.get("documents") or {}).get(use)
        return f"the {use} documents" if known is None else f"{known} {use} documents"

    def planned_call(self) -> Timing | None:
        """Return the times of a call of the smallest batch and as near to the planned length as one was timed."""
        timings = self.crossover.timings
        row = [
            timing for timing in timings if timing.batch == timings[0].batch and timing.length <= self.length
        ]
        return row[-1] if row else None


@lru_cache(4096)
def share_left(pattern: Pattern, site: Site, length: int) -> float:
    """Return the share of the pairs that the model's own pattern has at `length` tokens which `pattern` visits."""
    visited, own = (
        each.visited_pairs(length, length, causal=site.causal) for each in (pattern, own_pattern(site))
    )
    return visited / own


def kept(pattern: Pattern, site: Site) -> bool:
    """Whether a head is as the model has it."""
    return pattern == own_pattern(site)
