"""Repair: plans are measured jointly and proposed anew until one holds the budget and little of it is left over.

Scores add up changes of single units, and changes strengthen each other: a plan that removes 80 % of the pairs of a
trained model degrades it about 1.8 times as much as its scores say. So the limit that plans are allocated for is
moved, by what was measured, until the measured degradation fits; and the scores are taken again around a plan that
nearly fits, which then include what the plan has already changed.

Where there are several budgets, a plan is measured under all of them at once, and the one that uses up most of its
limit moves the allocation.

The repair documents are a sample, and the certificate will speak from another one. A plan is accepted when the bound
on that other sample is likely to hold (`statistics.likely_bound`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hcompile.budget import RESERVE
from hcompile.plan import Plan
from hcompile.policy.allocate import allocate
from hcompile.policy.log import Trial
from hcompile.policy.metrics.score import DocumentScore
from hcompile.policy.profile import Scores
from hcompile.policy.statistics import MEAN, Statistic, likely_bound
from hcompile.policy.units import Unit, plan_of

CONFIDENCE = 0.95
"""Of the likely bound: at least nine certificates in ten hold where the documents come from one population."""

_STRENGTHENING = 1.8
"""Measured over predicted degradation of first plans; only a starting point."""
_HEADROOM = 1.2
"""Likely bound over degradation at the default numbers of documents; only a starting point."""
_NEAR = (0.8, 1.3)
"""Likely bounds, as shares of the limit, that are near enough to take scores around the plan."""
_USED_UP = 0.97
"""Share of the limit from which on the search for more ends."""
_AIM, _MORE_CAREFUL, _LAST_AIM = 0.985, 0.97, 0.8
"""Share of the limit that proposals aim at, the factor on it after each one that failed, and the share that the last
trial aims at when nothing holds yet."""
_STEP_DOWN, _SMALLEST = 0.9, 1e-3
"""Factor on the allowed degradation while it gives a plan that is known not to hold, and where that ends."""
CROWDING = 2.0
"""Factor on the curvature around a measured plan: many units change at once there, each against the old plan. Of the
factors 1 and 2, and of 0, 0.5 and 1 standard errors added to the slope, 2 alone gave the best plans."""


class Measure(Protocol):
    """Measures a plan on the repair documents, under each budget."""

    def __call__(self, plan: Plan) -> list[list[DocumentScore]]: ...


@dataclass(frozen=True, slots=True)
class Effort:
    """How far repair goes.

    Attributes:
        trials: plans measured at most.
        time_limit_s: no measurement but the first starts later than this, None for no limit.
        reserve: the share of each limit that is left alone.
    """

    trials: int = 6
    time_limit_s: float | None = None
    reserve: float = RESERVE

    def __post_init__(self) -> None:
        if self.trials < 1 or (self.time_limit_s is not None and self.time_limit_s < 0):
            raise ValueError(f"{self}: at least one trial, and no negative time")


class Repair:
    """One search for a plan; `run` does it, `trials` is its log."""

    def __init__(
        self,
        units: Sequence[Unit],
        latency_us: Sequence[Sequence[float]],
        limits: Sequence[float],
        *,
        statistics: Sequence[Statistic] = (MEAN,),
        scored: int = 0,
        measure: Measure,
        certify_documents: int,
        effort: Effort,
        seed: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare a search within the limits, less the reserve of each.

        Args:
            latency_us: by unit and option.
            limits: by budget, positive.
            statistics: what each budget bounds.
            scored: the budget whose metric the scores are of (`goal.scored_by`).
            certify_documents: how many the certificate will be measured on.
        """
        self.trials: list[Trial] = []
        self._units = units
        self._latency_us = latency_us
        self._limits = [limit * (1 - effort.reserve) for limit in limits]
        self._limit = self._limits[scored]
        self._statistics = statistics
        self._measure = measure
        self._fresh = certify_documents
        self._effort = effort
        self._seed = seed
        self._clock = clock
        self._deadline: float | None = None

    def run(self, scores: Scores, expand_around: Callable[[Plan], Scores]) -> Trial | None:
        """Return the fastest accepted plan, None when none but the dense one holds; the time limit runs from here."""
        if self._effort.time_limit_s is not None:
            self._deadline = self._clock() + self._effort.time_limit_s
        start = self._limit / _HEADROOM / _STRENGTHENING
        self._search("profile", scores, scores.curvature, start, self._near)
        around = min(self.trials, key=lambda trial: abs(trial.tightest - 1), default=None)
        if around is not None and not self._spent():
            refined = expand_around(around.plan)
            cost = _sum(refined.slope, refined.curvature, CROWDING)
            if refined.base > 0 and around.tightest > 0:
                start = refined.base * _AIM / around.tightest
            self._search("refine", refined, cost, start, self._used_up)
        if not any(trial.accepted for trial in self.trials):
            # Scores around a plan that fails may see no better one near it: the first ones see one further away.
            tried = [trial for trial in self.trials if trial.stage == "profile" and trial.tightest > 0]
            start = min((trial.predicted * _AIM / trial.tightest for trial in tried), default=0.0)
            self._search("profile", scores, scores.curvature, start, lambda trial: trial.accepted)
        accepted = [trial for trial in self.trials if trial.accepted]
        return min(accepted, key=lambda trial: trial.latency_us, default=None)

    def _search(
        self,
        stage: str,
        scores: Scores,
        cost: Sequence[Sequence[float]],
        allowed: float,
        enough: Callable[[Trial], bool],
    ) -> None:
        """Measure plans allocated for a moving limit, `allowed`, until one is `enough` or no other comes out."""
        held, broken = 0.0, float("inf")
        while not self._spent():
            choice = allocate(self._latency_us, cost, allowed - scores.base)
            if choice is None or not any(choice):
                # Only the dense plan is left: there is nothing to measure.
                return
            plan = plan_of(self._units, choice)
            known = next((trial for trial in self.trials if trial.plan == plan), None)
            if known is not None:
                if known.accepted or held > 0 or allowed < _SMALLEST * self._limit:
                    return
                allowed *= _STEP_DOWN
                continue
            predicted = scores.base + sum(row[option] for row, option in zip(cost, choice, strict=True))
            trial = self._try(stage, plan, choice, predicted)
            if enough(trial):
                return
            if trial.accepted:
                held = max(held, allowed)
            else:
                broken = min(broken, allowed)
            # Where nothing was lost at all, the next plan may lose ten times as much.
            proposed = allowed * self._aim(stage) / max(trial.tightest, 0.1)
            allowed = proposed if held < proposed < broken else (held + broken) / 2

    def _try(self, stage: str, plan: Plan, choice: Sequence[int], predicted: float) -> Trial:
        found = used_of(self._measure(plan), self._statistics, self._limits, self._fresh, self._seed)
        latency_us = sum(row[option] for row, option in zip(self._latency_us, choice, strict=True))
        trial = Trial(stage, plan, predicted, *found, latency_us)
        self.trials.append(trial)
        return trial

    def _aim(self, stage: str) -> float:
        if len(self.trials) == self._effort.trials - 1 and not any(trial.accepted for trial in self.trials):
            return _LAST_AIM
        failed = sum(trial.stage == stage and not trial.accepted for trial in self.trials)
        return _AIM * _MORE_CAREFUL ** max(0, failed - 1)

    def _near(self, trial: Trial) -> bool:
        """Whether scores around this plan are worth taking; half of the trials are kept for what they propose."""
        near = _NEAR[0] <= trial.tightest <= _NEAR[1]
        return near or len(self.trials) >= self._effort.trials // 2

    def _used_up(self, trial: Trial) -> bool:
        return trial.accepted and trial.tightest >= _USED_UP

    def _spent(self) -> bool:
        late = self._deadline is not None and self._clock() >= self._deadline
        return (late and bool(self.trials)) or len(self.trials) >= self._effort.trials


def used_of(
    by_budget: Sequence[list[DocumentScore]],
    statistics: Sequence[Statistic],
    limits: Sequence[float],
    certify_documents: int,
    seed: int,
) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    """Return what was measured, the likely bounds, and these as shares of the limits, by budget (see `Trial`)."""
    pairs = list(zip(by_budget, statistics, strict=True))
    bounds = tuple(
        likely_bound(scores, certify_documents, CONFIDENCE, seed, statistic) for scores, statistic in pairs
    )
    measured = tuple(statistic.estimate(scores) for scores, statistic in pairs)
    return measured, bounds, tuple(bound / limit for bound, limit in zip(bounds, limits, strict=True))


def _sum(
    slope: Sequence[Sequence[float]], curvature: Sequence[Sequence[float]], factor: float
) -> list[list[float]]:
    return [
        [first + factor * second for first, second in zip(slopes, curvatures, strict=True)]
        for slopes, curvatures in zip(slope, curvature, strict=True)
    ]
