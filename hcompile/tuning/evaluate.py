"""How good the tuner is, computed from recorded sweeps alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from hcompile.schedules import Schedule
from hcompile.tuning.features import features, work
from hcompile.tuning.machine import Machine
from hcompile.tuning.measurement import Measurement
from hcompile.tuning.problem import Problem
from hcompile.tuning.replay import Replay, Sweep
from hcompile.tuning.search import SearchOptions, SearchResult, search
from hcompile.tuning.strategies import STRATEGIES, make_strategy

NEAR = 0.03
"""A schedule within this share of the best of a sweep counts as found."""

SEEDS = range(10)


@dataclass(frozen=True, slots=True)
class SweepReport:
    """One row of the tuner table. Losses are shares: how much slower than the exhaustive best.

    Attributes:
        failed: points whose kernel was not right.
        near_share: share of the points within `NEAR` of the best.
        noise: median relative difference between two timings of one point.
        trials: by strategy, the median over the seeds of the trials until a point within `NEAR` is measured.
        trials_after_others: the same for the model-guided search that has records of searches on the other sweeps.
        default_loss: of the default schedule.
        fixed_loss: of the one schedule that would be best for all sweeps of this dtype together.
        found_loss, found_trials: of a search with default options, medians over the seeds.
    """

    name: str
    points: int
    failed: int
    best_us: float
    best: Schedule
    near_share: float
    noise: float
    trials: dict[str, float]
    trials_after_others: float
    default_loss: float
    fixed_loss: float
    found_loss: float
    found_trials: float

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "best": self.best.to_json()}


def report(sweeps: Sequence[Sweep], seeds: Sequence[int] = SEEDS) -> list[SweepReport]:
    """Return the tuner table of some sweeps, with one search of each kind for each seed."""
    searches = {sweep.name: [default_search(sweep, seed) for seed in seeds] for sweep in sweeps}
    rows = []
    for sweep in sweeps:
        others = [other for other in sweeps if other is not sweep]
        fixed = best_fixed([each for each in sweeps if each.workload.dtype == sweep.workload.dtype])
        priors = [
            _with_prior(sweep, [(other, searches[other.name][run].history) for other in others])
            for run in range(len(seeds))
        ]
        plain, found = problem_of(sweep), searches[sweep.name]
        by_strategy = {name: [trials_to(sweep, plain, name, seed) for seed in seeds] for name in STRATEGIES}
        after_others = [
            trials_to(sweep, prior, "xgboost", seed) for seed, prior in zip(seeds, priors, strict=True)
        ]
        rows.append(
            SweepReport(
                name=sweep.name,
                points=len(sweep.points),
                failed=sum(not each.ok for each in sweep.points),
                best_us=sweep.best().median_us,
                best=sweep.best().schedule,
                near_share=sweep.near_best(NEAR) / len(sweep.points),
                noise=sweep.noise(),
                trials={name: statistics.median(trials) for name, trials in by_strategy.items()},
                trials_after_others=statistics.median(after_others),
                default_loss=loss(sweep, sweep.points[sweep.default].schedule),
                fixed_loss=loss(sweep, fixed),
                found_loss=statistics.median(
                    loss(sweep, result.winner.schedule) for result in found if result.winner
                ),
                found_trials=statistics.median(len(result.history) for result in found),
            )
        )
    return rows


def problem_of(sweep: Sweep) -> Problem:
    """Return a sweep's space as a search sees it, with the features of the machine it was measured on."""
    machine = Machine.from_json(sweep.recorded["machine"])
    schedules = tuple(each.schedule for each in sweep.points)
    rows = features(sweep.workload, machine, schedules, sweep.features)
    return Problem(
        points=schedules, features=rows, work=work(sweep.workload), default=sweep.default, also=sweep.also
    )


def trials_to(sweep: Sweep, problem: Problem, strategy: str, seed: int, share: float = NEAR) -> int:
    """Count the trials of a search until it has measured a point within `share` of the best."""
    goal_us = sweep.best().median_us * (1 + share)
    proposing, replay = make_strategy(strategy, problem, seed), Replay(sweep)
    history: list[Measurement] = []
    while not history or not any(each.ok and each.median_us <= goal_us for each in history):
        positions = proposing.propose(history, SearchOptions().batch).positions
        history += replay.run([problem.points[position] for position in positions], math.inf)
    return next(trial for trial, each in enumerate(history, 1) if each.ok and each.median_us <= goal_us)


def default_search(sweep: Sweep, seed: int) -> SearchResult:
    """Run a search with default options on a sweep."""
    return search(problem_of(sweep), Replay(sweep), replace(SearchOptions(), seed=seed))


def best_fixed(sweeps: Sequence[Sweep]) -> Schedule:
    """Return the schedule that is right in all sweeps and least slow in their geometric mean.

    Raises:
        ValueError: no schedule is right in all of them.
    """
    common = set.intersection(*({each.schedule for each in sweep.points if each.ok} for sweep in sweeps))
    if not common:
        raise ValueError("no schedule is right in every sweep")
    logs = dict.fromkeys(common, 0.0)
    for sweep in sweeps:
        for each in sweep.points:
            if each.schedule in common:
                logs[each.schedule] += math.log(each.median_us)
    return min(sorted(logs, key=lambda schedule: schedule.text), key=logs.__getitem__)


def loss(sweep: Sweep, schedule: Schedule) -> float:
    """Return by what share a schedule is slower than the best; infinite where it is not right."""
    times = [each.median_us for each in sweep.points if each.schedule == schedule and each.ok]
    return times[0] / sweep.best().median_us - 1 if times else math.inf


def _with_prior(sweep: Sweep, others: Sequence[tuple[Sweep, Sequence[Measurement]]]) -> Problem:
    """Return the problem of a sweep with what searches on other sweeps have measured."""
    rows, costs = [], []
    for other, history in others:
        problem = problem_of(other)
        right = [each for each in history if each.ok]
        rows.append(problem.features[problem.positions(right)])
        costs += [problem.cost(each.median_us) for each in right]
    return replace(problem_of(sweep), prior_features=np.concatenate(rows), prior_costs=np.array(costs))
