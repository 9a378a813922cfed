"""Plans of a removal curve: what they leave, and how much better an allocation is than nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcompile.patterns import Dense, Local
from hcompile.policy.removal import Removal, descend
from hcompile.site import Site
from tests.another_family import Sinks

LENGTH = 1024
SITES = tuple(Site(f"layer.{i}", i, 4, 2, 64, 0.125, causal=True) for i in range(6))
SLIDING = Site("sliding", 6, 4, 2, 64, 0.125, causal=True, window=300)
REMOVAL = Removal.of(SITES, LENGTH, ["local"])
NARROWEST = Local(16, 4)
COST = [
    [0.0 if not option else 1e-6 * (1 + index) ** 3 / option for option in range(len(unit.options))]
    for index, unit in enumerate(REMOVAL.heads)
]


def test_targets_fall_by_one_factor_to_the_least() -> None:
    targets = REMOVAL.targets(4)
    least = NARROWEST.visited_pairs(LENGTH, LENGTH, causal=True) / (LENGTH * (LENGTH + 1) // 2)
    assert targets[-1] == pytest.approx(least)
    factors = [after / before for before, after in zip((1.0, *targets), targets, strict=False)]
    assert factors == pytest.approx([least**0.25] * 4)


@pytest.mark.parametrize("target", REMOVAL.targets(6))
def test_every_plan_leaves_at_most_its_target(target: float) -> None:
    plans = {
        "allocated": REMOVAL.allocated(COST, target),
        "heads": REMOVAL.ranked(REMOVAL.heads, COST, target, "local"),
        "layers": REMOVAL.ranked(REMOVAL.layers, COST[::4], target, "local"),
        "uniform": REMOVAL.uniform(target, "local"),
    }
    for name, plan in plans.items():
        assert plan is not None, name
        plan.check(SITES)
        assert REMOVAL.share(plan) <= target * (1 + 1e-6), name
    assert plans["uniform"] is not None
    # Windows come in whole keys: the control leaves as many pairs to within one of them.
    assert REMOVAL.share(plans["uniform"]) > target - 2 / LENGTH
    assert len({pattern for _, heads in plans["uniform"].choices for pattern in heads}) == 1


def test_heads_go_in_the_order_of_their_loss() -> None:
    plan = REMOVAL.ranked(REMOVAL.heads, COST, 0.5, "local")
    assert plan is not None
    flat = [pattern for _, heads in plan.choices for pattern in heads]
    narrow = flat.count(NARROWEST)
    assert flat == [NARROWEST] * narrow + [Dense()] * (24 - narrow) and 0 < narrow < 24


def test_interleaving_keeps_every_nth_layer() -> None:
    for target, period in ((0.7, 2), (0.45, 3)):
        plan = REMOVAL.interleaved(target, "local")
        assert plan is not None and target - 0.01 < REMOVAL.share(plan) <= target
        kept = [index for index, (_, heads) in enumerate(plan.choices) if Dense() in heads]
        assert kept == list(range(period - 1, 6, period))
    assert REMOVAL.interleaved(REMOVAL.targets(1)[0], "local") is None


def test_a_family_is_chosen_from_alone() -> None:
    def with_sinks(units: Any) -> Any:
        return tuple(replace(unit, options=(*unit.options, Sinks(200), Sinks(8))) for unit in units)

    both = Removal(with_sinks(REMOVAL.heads), with_sinks(REMOVAL.layers), LENGTH)
    assert both.families == ("local", "sinks")
    cost = [[*row, 1.0, 2.0] for row in COST]
    for family in both.families:
        plan = both.allocated(cost, 0.5, family)
        assert plan is not None
        assert {pattern.family for _, heads in plan.choices for pattern in heads} == {"dense", family}
    uniform = both.uniform(0.5, "sinks")
    assert uniform is not None and {*uniform.choices[0][1]} == {Sinks(200)}
    assert both.uniform(0.001, "sinks") is None


def test_a_sliding_window_is_narrowed_without_sinks() -> None:
    sites = (*SITES, SLIDING)
    removal = Removal.of(sites, LENGTH, ["local"])
    for target in removal.targets(4):
        for plan in (removal.uniform(target, "local"), removal.interleaved(target, "local")):
            if plan is not None:
                plan.check(sites)
    narrow = removal.uniform(0.4, "local")
    assert narrow is not None
    window = narrow["layer.0"][0].params()[0]
    assert narrow["sliding"] == (Local(min(window, 300), 0),) * 4


def test_units_of_other_heads_are_refused() -> None:
    with pytest.raises(ValueError, match="units of the same heads"):
        Removal(REMOVAL.heads[:-1], REMOVAL.layers, LENGTH)


@given(st.data())
def test_descending_fits_and_costs_no_more_than_one_step_above_the_best(data: st.DataObject) -> None:
    units = data.draw(st.integers(1, 4))
    sizes = st.lists(st.tuples(st.integers(1, 99), st.floats(-1, 9)), min_size=1, max_size=4)
    rows = [[(100, 0.0), *data.draw(sizes)] for _ in range(units)]
    pairs = [[float(count) for count, _ in row] for row in rows]
    cost = [[loss for _, loss in row] for row in rows]
    most = data.draw(st.integers(1, 100 * units))
    choices: list[tuple[int, ...]] = [()]
    for row in rows:
        choices = [(*choice, index) for choice in choices for index in range(len(row))]

    def total(table: list[list[float]], choice: Any) -> float:
        return sum(row[int(index)] for row, index in zip(table, choice, strict=True))

    fitting = [choice for choice in choices if total(pairs, choice) <= most]
    found = descend(pairs, cost, most)
    assert (found is None) == (not fitting)
    if found is not None:
        assert total(pairs, found) <= most
        step = max(max(row) - min(row) for row in cost)
        assert total(cost, found) <= min(total(cost, choice) for choice in fitting) + step + 1e-9
