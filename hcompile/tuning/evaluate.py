"""How good the tuner is, computed from recorded sweeps alone."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from hcompile.schedules import Schedule
from hcompile.tuning.features import features, work
from hcompile.tuning.machine import Machine
from hcompile.tuning.measurement import Measurement, fastest
from hcompile.tuning.problem import Problem
from hcompile.tuning.ranking import rank_quality
from hcompile.tuning.replay import Replay, Sweep
from hcompile.tuning.search import SearchOptions, SearchResult, search
from hcompile.tuning.strategies import STRATEGIES, make_strategy
from hcompile.workload import Workload

NEAR = 0.03
"""A schedule within this share of the best of a sweep counts as found."""
NEAR_ON_GPU = 0.02
"""The same on a GPU, where times repeat better."""

SEEDS = range(10)
EARLY_TRIALS = 10


@dataclass(frozen=True, slots=True)
class SweepReport:
    """One row of the tuner table. Losses are shares: how much slower than the exhaustive best.

    Attributes:
        points: schedules of the space.
        failed: points whose kernel was not right.
        pruned: those of them that did not compile ahead, which no search sees.
        near: a point within this share of the best counts as found.
        near_share: share of the points that a search sees which are that near.
        noise: median relative difference between two timings of one point.
        trials: by strategy, the median over the seeds of the trials until a point within `near` is measured.
        trials_after_others: the same for the model-guided search that has records of searches on the other sweeps of
            this template and device, where there are any.
        default_loss: of the default schedule.
        fixed_loss: of the one schedule that would be best for all sweeps of this template, device and dtype together.
        found_loss, found_trials: of a search with default options, medians over the seeds.
        rank_correlation, top_regret: see `ranking.rank_quality`, medians over the seeds.
        early_loss: of the best of the first `EARLY_TRIALS` trials of the model-guided search, median over the seeds.
        early_loss_after_lengths: the same where it has records of searches on the sweeps that differ from this one by
            their length only; None where there is none.
    """

    name: str
    template: str
    points: int
    failed: int
    pruned: int
    best_us: float
    best: Schedule
    near: float
    near_share: float
    noise: float
    trials: dict[str, float]
    trials_after_others: float
    default_loss: float
    fixed_loss: float
    found_loss: float
    found_trials: float
    rank_correlation: float
    top_regret: float
    early_loss: float
    early_loss_after_lengths: float | None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "best": self.best.to_json()}


def report(sweeps: Sequence[Sweep], seeds: Sequence[int] = SEEDS, near: float = NEAR) -> list[SweepReport]:
    """Return the tuner table of some sweeps, with one search of each kind for each seed.

    Only sweeps of one template and device serve each other.
    """
    searches = {sweep.name: [default_search(sweep, seed) for seed in seeds] for sweep in sweeps}
    return [
        _row(sweep, [other for other in sweeps if alike(sweep, other)], searches, seeds, near)
        for sweep in sweeps
    ]


def _row(
    sweep: Sweep,
    family: Sequence[Sweep],
    searches: Mapping[str, Sequence[SearchResult]],
    seeds: Sequence[int],
    near: float,
) -> SweepReport:
    """Return the row of a sweep.

    Args:
        family: the sweeps like this one, itself among them; searches: those on each, one for each seed.
    """

    def with_records(others: Sequence[Sweep]) -> list[Problem]:
        return [
            _with_prior(sweep, [(other, searches[other.name][run].history) for other in others])
            for run in range(len(seeds))
        ]

    def early(problems: Sequence[Problem]) -> float:
        pairs = zip(problems, seeds, strict=True)
        return statistics.median(
            loss_after(sweep, problem, "xgboost", seed, EARLY_TRIALS) for problem, seed in pairs
        )

    plain, found = problem_of(sweep), searches[sweep.name]
    others = [other for other in family if other is not sweep]
    lengths = [other for other in others if _differ_in_length(sweep.workload, other.workload)]
    by_strategy = {name: [trials_to(sweep, plain, name, seed, near) for seed in seeds] for name in STRATEGIES}
    after_others = [
        trials_to(sweep, prior, "xgboost", seed, near)
        for seed, prior in zip(seeds, with_records(others), strict=True)
    ]
    fixed = best_fixed([each for each in family if each.workload.dtype == sweep.workload.dtype])
    correlations, regrets = zip(*(rank_quality(sweep, plain, seed) for seed in seeds), strict=True)
    return SweepReport(
        name=sweep.name,
        template=sweep.template,
        points=len(sweep.points),
        failed=sum(not each.ok for each in sweep.points),
        pruned=len(sweep.points) - len(plain.points),
        best_us=sweep.best().median_us,
        best=sweep.best().schedule,
        near=near,
        near_share=sweep.near_best(near) / len(plain.points),
        noise=sweep.noise(),
        trials={name: statistics.median(trials) for name, trials in by_strategy.items()},
        trials_after_others=statistics.median(after_others),
        default_loss=loss(sweep, plain.points[plain.default]),
        fixed_loss=loss(sweep, fixed),
        found_loss=statistics.median(
            loss(sweep, result.winner.schedule) for result in found if result.winner
        ),
        found_trials=statistics.median(len(result.history) for result in found),
        rank_correlation=statistics.median(correlations),
        top_regret=statistics.median(regrets),
        early_loss=early([plain] * len(seeds)),
        early_loss_after_lengths=early(with_records(lengths)) if lengths else None,
    )


def alike(sweep: Sweep, other: Sweep) -> bool:
    """Return whether a search on one sweep may learn from the other: of one template, on one device."""
    return sweep.template == other.template and sweep.recorded.get("device") == other.recorded.get("device")


def _differ_in_length(workload: Workload, other: Workload) -> bool:
    """Return whether nothing but the length of the keys differs; queries are as many as these, or few."""
    same_kind = (workload.q_len == workload.kv_len) == (other.q_len == other.kv_len)
    moved = replace(workload, q_len=other.q_len, kv_len=other.kv_len)
    return workload != other and same_kind and moved == other


def problem_of(sweep: Sweep) -> Problem:
    """Return a sweep's space as a search sees it, with the features of the machine it was measured on.

    Points that did not compile ahead are left out, as `tune.Tuner` leaves them out.
    """
    machine = Machine.from_json(sweep.recorded["machine"])
    seen = sweep.searched()
    schedules = tuple(sweep.points[position].schedule for position in seen)
    encoded = [sweep.features[position] for position in seen]
    return Problem(
        points=schedules,
        features=features(sweep.workload, machine, schedules, encoded),
        work=work(sweep.workload),
        default=seen.index(sweep.default) if sweep.default in seen else 0,
        also=tuple(seen.index(position) for position in sweep.also if position in seen),
    )


def loss_after(sweep: Sweep, problem: Problem, strategy: str, seed: int, trials: int) -> float:
    """Return the loss of the best point that a search has measured in its first trials, infinite where all failed."""
    proposing, replay = make_strategy(strategy, problem, seed), Replay(sweep)
    history: list[Measurement] = []
    while len(history) < min(trials, len(problem.points)):
        positions = proposing.propose(history, min(SearchOptions().batch, trials - len(history))).positions
        history += replay.run([problem.points[position] for position in positions], math.inf)
    best = fastest(history)
    return loss(sweep, best.schedule) if best else math.inf


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
    if not others:
        return problem_of(sweep)
    rows, costs = [], []
    for other, history in others:
        problem = problem_of(other)
        right = [each for each in history if each.ok]
        rows.append(problem.features[problem.positions(right)])
        costs += [problem.cost(each.median_us) for each in right]
    return replace(problem_of(sweep), prior_features=np.concatenate(rows), prior_costs=np.array(costs))
