"""Widening takes the slopes with the fewest pairs at the shorter lengths that hold there."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from hcompile.patterns import Dense, Local
from hcompile.plan import Plan
from hcompile.policy.goal import goals_of
from hcompile.policy.metrics.score import DocumentScore
from hcompile.policy.profile import Scores
from hcompile.policy.units import Unit
from hcompile.policy.widen import PARTS, Tried, Widener, why_rigid
from hcompile.site import Site

LENGTH, SHORTER = 4096, (1024, 2048)
SITES = tuple(
    Site(f"layer.{index}", index, 2, 1, 64, 0.125, True, window) for index, window in ((0, None), (1, 512))
)
UNITS = (
    *(Unit(SITES[0], (head,), (Dense(),)) for head in range(2)),
    *(Unit(SITES[1], (head,), (Local(512),)) for head in range(2)),
)
PLAN = Plan.of({"layer.0": (Local(2048, 16), Local(1024, 16)), "layer.1": (Local(512), Local(128))})
ALL = (Local(64, 16, widening=496), Local(64, 16, widening=240))
LIMIT = 0.003


class Lossy:
    """A length at which each key less than the plan's window loses something, by head of the first layer."""

    def __init__(self, length: int, each: Sequence[float], base: float, strengthening: float = 1.0) -> None:
        self.length, self.each, self.base, self.strengthening = length, each, base, strengthening

    def expand(self, plan: Plan, units: Sequence[Unit]) -> Scores:
        assert plan == PLAN
        slope = tuple(
            tuple(self._lost(unit.heads[0], unit, option) for option in unit.options) for unit in units
        )
        nothing = tuple(tuple(0.0 for _ in unit.options) for unit in units)
        return Scores(self.base, slope, nothing, nothing)

    def measure(self, plan: Plan) -> list[list[DocumentScore]]:
        lost = sum(
            self._lost(head, UNITS[head], pattern.at(self.length))
            for head, pattern in enumerate(plan["layer.0"])
        )
        mean = self.base + self.strengthening * lost
        return [[DocumentScore(100 * mean, 100.0, 100) for _ in range(24)]]

    def _lost(self, head: int, unit: Unit, option: object) -> float:
        if unit.site != SITES[0] or not isinstance(option, Local):
            return 0.0
        window = PLAN["layer.0"][head].params()[0]
        return self.each[head] * (window - option.window)


def run(*shorter: Lossy) -> tuple[Plan, tuple[Tried, ...]]:
    lengths = {each.length: each for each in shorter}
    return Widener(UNITS, LENGTH, lengths, goals_of([f"kl={LIMIT}"]), 0.1, 48, 0).widen(PLAN)


def test_where_nothing_is_lost_all_of_every_window_follows_the_length() -> None:
    plan, tried = run(*(Lossy(length, (0, 0), 0.001) for length in SHORTER))
    assert plan["layer.0"] == ALL
    assert [(each.part, each.length, each.accepted) for each in tried] == [
        (0.0, 2048, True),
        (0.0, 1024, True),
        (1.0, 2048, True),
        (1.0, 1024, True),
    ]


def test_windows_of_the_model_stay_and_the_plan_is_the_same_at_its_length() -> None:
    plan, _ = run(Lossy(1024, (0, 0), 0.001))
    assert plan["layer.1"] == PLAN["layer.1"]
    assert plan.at(LENGTH) == PLAN and plan.widens and not PLAN.widens


def test_only_the_window_that_loses_stays() -> None:
    plan, _ = run(Lossy(1024, (0, 1e-4), 0.001), Lossy(2048, (0, 0), 0.001))
    assert plan["layer.0"] == (ALL[0], PLAN["layer.0"][1])


def test_the_length_that_loses_most_decides() -> None:
    plan, _ = run(Lossy(1024, (1e-4, 0), 0.001), Lossy(2048, (0, 1e-4), 0.001))
    assert plan == PLAN


def test_less_is_tried_where_heads_lose_more_together() -> None:
    plan, tried = run(Lossy(2048, (1e-6, 1e-6), 0.001, strengthening=3.0))
    found = plan["layer.0"]
    assert plan.widens and found != ALL
    assert [each.part for each in tried[1:]] == [*PARTS[: len(tried) - 1]]
    assert [each.accepted for each in tried] == [True] + [False] * (len(tried) - 2) + [True]
    assert tried[-1].used[0] <= 1 < tried[-2].used[0]


def test_a_plan_that_does_not_hold_at_a_shorter_length_stays_as_it_is() -> None:
    plan, tried = run(Lossy(2048, (0, 0), 0.001), Lossy(1024, (0, 0), 0.0028))
    assert plan == PLAN
    assert [(each.length, each.accepted) for each in tried] == [(2048, True), (1024, False)]
    assert tried[1].used == pytest.approx((0.0028 / (0.9 * LIMIT),))
    assert why_rigid(tried).startswith(
        "the plan itself is not likely to hold at 1024 tokens (104% of a budget"
    )


def test_it_is_said_why_windows_stay() -> None:
    _, nothing_tried = run(Lossy(1024, (1e-4, 1e-4), 0.001))
    assert why_rigid(nothing_tried).startswith("no window is wide enough")
    _, failed = run(Lossy(2048, (1e-6, 1e-6), 0.001, strengthening=1e3))
    assert why_rigid(failed) == "narrower ones are not likely to hold at 2048 tokens"
