"""Which plans are measured at one length, without a model: what a plan loses is read off its pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from hcompile.patterns import Dense
from hcompile.pipeline import curves
from hcompile.pipeline.ablation import MAIN, Point
from hcompile.pipeline.curves import LengthCurves
from hcompile.plan import Plan
from hcompile.policy.metrics.score import DocumentScore
from hcompile.policy.profile import Scores
from hcompile.policy.removal import Removal
from hcompile.policy.statistics import MEAN
from hcompile.policy.units import Unit
from hcompile.site import Site
from tests.another_family import Sinks

LENGTH = 1024
SITES = tuple(Site(f"layer.{i}", i, 4, 2, 64, 0.125, causal=True) for i in range(4))


class Keeper:
    """Stands in for the policy's: a plan loses as much as it removes, and heads of later layers less."""

    def __init__(self, memory: object, models: object, units: Sequence[Unit], *others: object) -> None:
        self.units = units
        self.measured: list[Plan] = []
        self.around: list[Plan] = []

    def expand(self, plan: Plan, stage: str) -> Scores:
        self.around.append(plan)
        rows = tuple(
            tuple(float(option) / (1 + unit.site.layer) for option in range(len(unit.options)))
            for unit in self.units
        )
        nothing, kept = (tuple((value,) * len(row) for row in rows) for value in (0.0, 1.0))
        return Scores(0.0, nothing, rows, kept)

    def measure(self, plan: Plan) -> list[list[DocumentScore]]:
        self.measured.append(plan)
        loss = plan.removed_share(SITES, LENGTH) ** 4
        return [[DocumentScore(loss * (0.9 + 0.01 * (n % 20)), 1.0, 1) for n in range(20)]]


def measured(
    monkeypatch: pytest.MonkeyPatch, limits: tuple[float, ...], removal: Removal, late_after: int = 10**9
) -> tuple[LengthCurves, Keeper]:
    made: list[Keeper] = []

    def make(*arguments: Any) -> Keeper:
        made.append(Keeper(*arguments))
        return made[-1]

    monkeypatch.setattr(curves, "Keeper", make)
    ruler = SimpleNamespace(
        memory=None,
        models=None,
        goal=SimpleNamespace(metric=SimpleNamespace(statistic=MEAN)),
        job=SimpleNamespace(request=SimpleNamespace(seed=0)),
        limits=limits,
        progress=lambda stage, done, total: None,
        late=lambda: len(made[0].measured) >= late_after,
        collapsed=lambda point: bool(limits) and point.low > 10 * limits[-1],
    )
    splits: Any = SimpleNamespace(repair=(None,) * 20)
    found = LengthCurves(ruler, removal, splits, 4)  # type: ignore[arg-type]
    found.measure()
    return found, made[0]


def curve(points: Sequence[Point], name: str, family: str) -> list[Point]:
    return [point for point in points if (point.curve, point.family) == (name, family)]


def test_no_plan_is_measured_twice_and_each_is_allocated_around_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found, keeper = measured(monkeypatch, (), Removal.of(SITES, LENGTH, ["local"]))
    assert max(Counter(keeper.measured).values()) == 1
    main = curve(found.points, MAIN, "")
    assert keeper.around == [Plan.dense(SITES), *(point.plan for point in main[:-1])]
    assert [point.target for point in main] == [*found.removal.targets(4)]
    assert found.warnings == []


def test_a_budget_is_closed_in_on_from_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    removal = Removal.of(SITES, LENGTH, ["local"])
    found, _ = measured(monkeypatch, (0.1,), removal)
    targets = {point.target for point in curve(found.points, MAIN, "")}
    assert 1 <= len(targets - {*removal.targets(4)}) <= 3
    falling = sorted(curve(found.points, MAIN, ""), key=lambda point: -point.left)
    passed = next(place for place, point in enumerate(falling) if point.high > 0.1)
    # Whole steps of 16 heads end it before the third halving.
    assert falling[passed - 1].left - falling[passed].left < 1.5 / 16
    assert max(Counter(point.plan for point in falling).values()) == 1
    # The controls are measured at the same targets.
    assert {point.target for point in curve(found.points, "uniform", "local")} == targets


def test_a_curve_ends_where_quality_has_collapsed(monkeypatch: pytest.MonkeyPatch) -> None:
    removal = Removal.of(SITES, LENGTH, ["local"])
    found, _ = measured(monkeypatch, (0.001,), removal)
    allocated, uniform = curve(found.points, MAIN, ""), curve(found.points, "uniform", "local")
    # Allocations that close in on the budget come after the curve and may have collapsed too.
    walked = [point for point in allocated if point.target in removal.targets(4)]
    for points in (walked, uniform):
        assert [point.low > 0.01 for point in points] == [False] * (len(points) - 1) + [True]
        assert points[-1].target > removal.targets(4)[-1]


def test_the_time_limit_ends_between_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    found, keeper = measured(monkeypatch, (), Removal.of(SITES, LENGTH, ["local"]), late_after=3)
    assert len(keeper.measured) == 3 and {point.plan for point in found.points} == {*keeper.measured}
    assert found.warnings == ["the time limit ended the measurements at 1024 tokens after 3 plans"]
    plans = len(
        {point.plan for point in measured(monkeypatch, (), Removal.of(SITES, LENGTH, ["local"]))[0].points}
    )
    in_time, _ = measured(monkeypatch, (), Removal.of(SITES, LENGTH, ["local"]), late_after=plans)
    assert in_time.warnings == []


def test_each_family_has_curves_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Removal.of(SITES, LENGTH, ["local"])
    heads, layers = (
        tuple(replace(unit, options=(*unit.options, Sinks(300), Sinks(40))) for unit in units)
        for units in (plain.heads, plain.layers)
    )
    found, _ = measured(monkeypatch, (), Removal(heads, layers, LENGTH))
    kinds = {(point.curve, point.family) for point in found.points}
    assert {(MAIN, ""), (MAIN, "local"), (MAIN, "sinks"), ("layers", "local"), ("layers", "sinks")} <= kinds
    for point in found.points:
        families = {pattern.family for _, row in point.plan.choices for pattern in row} - {Dense.family}
        assert not point.family or families == {point.family}
    assert [sensitivity.family for sensitivity in found.sensitivities] == ["local", "sinks"]
    assert found.sensitivities[1].patterns == ("sinks 40",) * 4
