"""Allocation against brute force."""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import milp

from hcompile.policy import allocate as allocation
from hcompile.policy.allocate import allocate

Table = list[list[float]]


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, Table, float]:
    shape = draw(st.lists(st.integers(1, 4), min_size=1, max_size=5))
    times = [[draw(st.integers(1, 1000)) * 1.0 for _ in range(options)] for options in shape]
    costs = [[draw(st.integers(-20, 1000)) * 1e-6 for _ in range(options)] for options in shape]
    return times, costs, draw(st.integers(-100, 3000)) * 1e-6


def total(table: Table, choice: tuple[int, ...]) -> float:
    return sum(row[option] for row, option in zip(table, choice, strict=True))


@given(tables())
def test_choices_are_feasible_and_optimal(problem: tuple[Table, Table, float]) -> None:
    times, costs, limit = problem
    every = itertools.product(*(range(len(row)) for row in times))
    # Costs are whole millionths: half of one tells "within" from "beyond" whatever the rounding.
    feasible = [choice for choice in every if total(costs, choice) <= limit + 5e-7]
    found = allocate(times, costs, limit + 2.5e-7)
    if not feasible:
        assert found is None
        return
    assert found is not None and total(costs, found) <= limit + 5e-7
    best = min(total(times, choice) for choice in feasible)
    assert total(times, found) <= best * (1 + 2e-4)


def test_the_time_of_a_choice_grows_as_the_limit_shrinks() -> None:
    times = [[100.0, 50.0, 10.0]] * 8
    costs = [[0.0, 1e-4 * (1 + unit), 1e-3 * (1 + unit)] for unit in range(8)]
    found = [allocate(times, costs, limit) for limit in (0.05, 0.01, 0.001, 0.0)]
    spent = [total(times, choice) for choice in found if choice is not None]
    assert len(spent) == 4 and spent == sorted(spent) and spent[-1] == 800


def test_equal_problems_give_equal_choices() -> None:
    times, costs = [[2.0, 1.0]] * 20, [[0.0, 1e-5]] * 20
    assert allocate(times, costs, 1e-4) == allocate(times, costs, 1e-4)


def test_a_model_of_a_thousand_heads_is_allocated() -> None:
    times = [[100.0 / (1 + option) + unit % 7 for option in range(16)] for unit in range(1024)]
    costs = [[1e-6 * option * (1 + unit % 13) for option in range(16)] for unit in range(1024)]
    found = allocate(times, costs, 3e-3)
    assert found is not None and total(costs, found) <= 3e-3 * (1 + 1e-6)


@pytest.mark.parametrize(
    ("times", "costs", "limit"),
    [
        ([[1.0]], [[1.0, 2.0]], 1.0),
        ([], [], 1.0),
        ([[]], [[]], 1.0),
        ([[1.0]], [[float("nan")]], 1.0),
        ([[float("inf")]], [[1.0]], 1.0),
    ],
)
def test_tables_that_make_no_sense_are_refused(times: Table, costs: Table, limit: float) -> None:
    with pytest.raises(ValueError, match=r"tables of the same shape|finite"):
        allocate(times, costs, limit)


def test_what_the_solver_prints_does_not_reach_the_output(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def loud(*arguments: Any, **named: Any) -> Any:
        os.write(1, b"HighsMipSolverData::transformNewIntegerFeasibleSolution tmpSolver.run();")
        return milp(*arguments, **named)

    monkeypatch.setattr(allocation, "milp", loud)
    assert allocate([[2.0, 1.0]], [[0.0, 0.1]], 0.2) == (1,)
    os.write(1, b"heard")
    assert capfd.readouterr().out == "heard"
