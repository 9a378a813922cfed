"""Windows that widen with the length, so that one plan serves a range of lengths.

A plan is chosen for the longest length. Its windows are then made to widen up to what they are there (a span of
alpha + beta N keys, as in MoA, arXiv:2406.14909), by as large a share of each as the budgets allow at the shorter
lengths, where plans are measured too. So short calls read less, and calls longer than any that were measured find wider
windows than the plan had: whether that suffices there, `--beyond` measures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from hcompile.plan import Plan
from hcompile.policy.goal import Goal
from hcompile.policy.metrics.score import DocumentScore
from hcompile.policy.repair import CONFIDENCE
from hcompile.policy.statistics import likely_bound
from hcompile.site import Site

SHARES = (1.0, 0.75, 0.5, 0.25)
"""Of each window beyond its least, that widens with the length; the first that holds is taken."""


@dataclass(frozen=True, slots=True)
class Tried:
    """A share, as it was measured at one of the shorter lengths.

    Attributes:
        measured, likely_bound, used: by budget, as in `policy.log.Trial`.
    """

    share: float
    length: int
    measured: tuple[float, ...]
    likely_bound: tuple[float, ...]
    used: tuple[float, ...]

    @property
    def accepted(self) -> bool:
        """Whether every budget is likely to hold at this length, with the reserve left."""
        return max(self.used) <= 1

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "accepted": self.accepted}


def widen(
    plan: Plan,
    sites: Sequence[Site],
    length: int,
    shorter: Sequence[int],
    goals: Sequence[Goal],
    measure: Callable[[Plan, int], list[list[DocumentScore]]],
    *,
    reserve: float,
    certify_documents: int,
    seed: int,
) -> tuple[Plan, tuple[Tried, ...]]:
    """Return the plan with windows that widen as much as the budgets allow, and what was tried.

    Args:
        plan: chosen for `length` tokens; it is returned as it is where no share holds.
        shorter: lengths to measure at.
        measure: scores a plan on documents of a length, by budget.
        certify_documents: how many the certificate will be measured on.
    """
    tried: list[Tried] = []
    for share in SHARES:
        candidate = plan.widened(sites, length, share)
        if candidate == plan:
            break
        for shortened in sorted(shorter, reverse=True):
            found = _tried(
                share, shortened, measure(candidate, shortened), goals, reserve, certify_documents, seed
            )
            tried.append(found)
            if not found.accepted:
                break
        else:
            return candidate, tuple(tried)
    return plan, tuple(tried)


def _tried(
    share: float,
    length: int,
    by_budget: list[list[DocumentScore]],
    goals: Sequence[Goal],
    reserve: float,
    certify_documents: int,
    seed: int,
) -> Tried:
    pairs = [(scores, goal.metric.statistic) for scores, goal in zip(by_budget, goals, strict=True)]
    bounds = tuple(
        likely_bound(scores, certify_documents, CONFIDENCE, seed, statistic) for scores, statistic in pairs
    )
    return Tried(
        share,
        length,
        tuple(statistic.estimate(scores) for scores, statistic in pairs),
        bounds,
        tuple(bound / (goal.limit * (1 - reserve)) for bound, goal in zip(bounds, goals, strict=True)),
    )
