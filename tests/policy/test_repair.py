"""Repair on a made-up world whose degradations strengthen each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from hcompile.budget import RESERVE
from hcompile.plan import Plan
from hcompile.policy.metrics.score import DocumentScore
from hcompile.policy.profile import Scores
from hcompile.policy.repair import Effort, Repair
from hcompile.policy.statistics import MEAN
from hcompile.policy.units import Unit, units_of
from hcompile.site import Site

SITES = tuple(Site(f"layer.{i}", i, 4, 2, 64, 0.125, causal=True) for i in range(4))
UNITS = units_of(SITES, 2048, chosen=["local"])
LIMIT = 0.003


class World:
    """Documents lose `strength` times the sum of single changes, to the power 1.2, each to its own degree."""

    def __init__(self, strength: float = 2.0, factors: Sequence[float] = (1.0,)) -> None:
        """`factors`: by budget, what its metric shows of the loss."""
        rng = np.random.default_rng(0)
        self.strength = strength
        self.factors = factors
        self.sensitivity = rng.lognormal(0, 1.5, len(UNITS))
        self.degrees = rng.lognormal(0, 0.3, 32)
        self.measured: list[Plan] = []
        self.expanded: list[Plan] = []
        self.cost = [
            [self.single(index, option) for option in range(len(u.options))] for index, u in enumerate(UNITS)
        ]
        self.latency_us = [
            [float(option.visited_pairs(2048, 2048, causal=True)) * 1e-3 for option in unit.options]
            for unit in UNITS
        ]

    def single(self, unit: int, option: int) -> float:
        window = UNITS[unit].options[option].params()[0]
        return 0.0 if option == 0 else float(self.sensitivity[unit]) * 0.02 / window

    def loss(self, plan: Plan) -> float:
        total = sum(self.cost[index][option_of(unit, plan)] for index, unit in enumerate(UNITS))
        return float(self.strength * total**1.2 * 3)

    def scores(self) -> Scores:
        curvature = tuple(map(tuple, self.cost))
        kept = tuple((1.0,) * len(row) for row in self.cost)
        return Scores(0.0, tuple((0.0,) * len(row) for row in self.cost), curvature, kept)

    def measure(self, plan: Plan) -> list[list[DocumentScore]]:
        self.measured.append(plan)
        return [
            [
                DocumentScore(self.loss(plan) * factor * degree, 1.0, 2048)
                for degree in self.degrees / self.degrees.mean()
            ]
            for factor in self.factors
        ]

    def expand(self, plan: Plan) -> Scores:
        """Exact up to the power: around a plan, changes count as differences of the strengthened costs."""
        self.expanded.append(plan)
        base = self.loss(plan)
        own = [option_of(unit, plan) for unit in UNITS]
        share = base / sum(row[option] for row, option in zip(self.cost, own, strict=True))
        slope = tuple(
            tuple(share * (cost - row[option]) for cost in row)
            for row, option in zip(self.cost, own, strict=True)
        )
        nothing, kept = (tuple((value,) * len(row) for row in self.cost) for value in (0.0, 1.0))
        return Scores(base, slope, nothing, kept)


def option_of(unit: Unit, plan: Plan) -> int:
    return unit.options.index(plan[unit.site.name][unit.heads[0]])


def repair_of(
    world: World, *limits: float, effort: Effort | None = None, clock: Sequence[float] = ()
) -> Repair:
    times = iter(clock)
    return Repair(
        UNITS,
        world.latency_us,
        limits or (LIMIT,),
        statistics=[MEAN] * max(1, len(limits)),
        measure=world.measure,
        certify_documents=64,
        effort=effort or Effort(),
        seed=0,
        clock=lambda: next(times, 1e9) if clock else 0.0,
    )


def test_the_accepted_plan_holds_and_uses_the_budget_up() -> None:
    world = World()
    repair = repair_of(world)
    best = repair.run(world.scores(), world.expand)
    assert best is not None and best.accepted
    assert 0.9 * (1 - RESERVE) * LIMIT <= best.likely_bound[0] <= (1 - RESERVE) * LIMIT
    assert best.latency_us == min(trial.latency_us for trial in repair.trials if trial.accepted)
    assert len(world.expanded) == 1 and len(repair.trials) <= 6


def test_whoever_keeps_nothing_back_comes_nearer_to_the_limit() -> None:
    usual, bold = (
        repair_of(world, effort=effort).run(world.scores(), world.expand)
        for world, effort in ((World(), Effort()), (World(), Effort(reserve=0.0)))
    )
    assert usual is not None and bold is not None
    assert (1 - RESERVE) * LIMIT < bold.likely_bound[0] <= LIMIT and bold.latency_us < usual.latency_us


def test_no_plan_is_measured_twice() -> None:
    world = World()
    repair_of(world).run(world.scores(), world.expand)
    assert len(set(world.measured)) == len(world.measured)


def test_scores_that_promise_far_too_much_are_repaired() -> None:
    world = World(strength=40.0)
    best = repair_of(world).run(world.scores(), world.expand)
    assert best is not None and best.likely_bound[0] <= LIMIT


def test_where_scores_around_a_failed_plan_see_no_better_one_the_first_scores_are_asked_again() -> None:
    world = World(strength=2.5)

    def blind(plan: Plan) -> Scores:
        scores = world.expand(plan)
        return replace(scores, curvature=tuple((1.0,) * len(row) for row in scores.curvature))

    repair = repair_of(world)
    best = repair.run(world.scores(), blind)
    assert [trial.accepted for trial in repair.trials[:-1]] == [False] * (len(repair.trials) - 1)
    assert repair.trials[0].tightest < 1.3, "near enough for scores around it"
    assert best is not None and best == repair.trials[-1]


def test_a_budget_out_of_reach_gives_no_plan() -> None:
    world = World(strength=1e9)
    assert repair_of(world).run(world.scores(), world.expand) is None


def test_windows_that_lose_nothing_are_taken() -> None:
    world = World(strength=0.0)
    best = repair_of(world).run(world.scores(), world.expand)
    assert best is not None and best.measured == (0.0,)


def test_the_tightest_of_several_budgets_steers() -> None:
    alone = repair_of(World(), LIMIT / 4).run(World().scores(), World().expand)
    world = World(factors=(1.0, 20.0))
    best = repair_of(world, LIMIT, 5 * LIMIT).run(world.scores(), world.expand)
    assert alone is not None and best is not None and best.accepted
    assert best.used[1] == best.tightest > 0.9 and best.used[0] == pytest.approx(best.tightest / 4)
    assert best.latency_us == pytest.approx(alone.latency_us, rel=0.02)


def test_one_budget_out_of_reach_is_enough_for_no_plan() -> None:
    world = World(factors=(1.0, 1e9))
    repair = repair_of(world, LIMIT, LIMIT)
    assert repair.run(world.scores(), world.expand) is None
    assert all(trial.used[1] > 1 for trial in repair.trials)


def test_half_of_the_trials_are_kept_for_scores_around_a_plan() -> None:
    world = World(strength=1000.0)
    repair = repair_of(world)
    repair.run(world.scores(), world.expand)
    assert sum(trial.stage == "profile" for trial in repair.trials) <= 3 and len(world.expanded) == 1


def test_the_time_limit_stops_new_measurements() -> None:
    world = World()
    repair = repair_of(world, effort=Effort(time_limit_s=10), clock=[0.0, 1.0, 50.0])
    repair.run(world.scores(), world.expand)
    assert len(world.measured) == 1 and not world.expanded


def test_a_time_limit_that_is_over_leaves_one_measurement() -> None:
    world = World()
    repair_of(world, effort=Effort(time_limit_s=1), clock=[0.0, 50.0]).run(world.scores(), world.expand)
    assert len(world.measured) == 1


def test_the_number_of_trials_is_kept() -> None:
    world = World()
    repair_of(world, effort=Effort(trials=2)).run(world.scores(), world.expand)
    assert len(world.measured) <= 2
