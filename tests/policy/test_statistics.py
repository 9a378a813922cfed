"""The bound: its coverage on skewed data, and what it must not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcompile.policy.metrics.base import DocumentScore, degradation
from hcompile.policy.statistics import likely_bound, standard_error, upper_bound


def scores_of(values: list[float]) -> list[DocumentScore]:
    return [DocumentScore(value * 100, 100.0, 100) for value in values]


def test_coverage_on_skewed_documents_is_near_its_name() -> None:
    rng = np.random.default_rng(0)
    truth = math.exp(0.125)
    runs = 400
    covered = sum(
        upper_bound(scores_of(rng.lognormal(0, 0.5, 32).tolist()), 0.95, seed, 500) >= truth
        for seed in range(runs)
    )
    # 94 % in 2000 runs; five standard errors of 400 runs are 6 %.
    assert 0.88 <= covered / runs <= 0.99


def test_a_plan_accepted_by_the_likely_bound_is_likely_certified() -> None:
    rng = np.random.default_rng(1)
    runs, kept = 300, 0
    for seed in range(runs):
        limit = likely_bound(scores_of(rng.lognormal(0, 0.5, 32).tolist()), 64, 0.95, seed)
        kept += upper_bound(scores_of(rng.lognormal(0, 0.5, 64).tolist()), 0.95, seed, 500) <= limit
    assert kept / runs >= 0.88


@given(st.lists(st.floats(0, 10), min_size=2, max_size=40), st.integers(0, 5))
def test_the_bound_is_never_below_the_estimate(values: list[float], seed: int) -> None:
    scores = scores_of(values)
    assert upper_bound(scores, 0.95, seed, 500) >= degradation(scores) - 1e-12


def test_equal_seeds_give_equal_bounds() -> None:
    scores = scores_of([0.1, 0.5, 0.2, 0.9])
    assert upper_bound(scores, 0.95, 3) == upper_bound(scores, 0.95, 3)


def test_documents_that_agree_leave_no_doubt() -> None:
    assert upper_bound(scores_of([0.25] * 40), 0.95, 0) == 0.25


def test_more_documents_tighten_the_bound() -> None:
    values = np.random.default_rng(2).lognormal(0, 0.5, 32).tolist()
    few, many = scores_of(values), scores_of(values * 4)
    assert upper_bound(many, 0.95, 0) < upper_bound(few, 0.95, 0)
    assert standard_error(many) == pytest.approx(standard_error(few) / 2, rel=0.05)


def test_long_documents_weigh_more() -> None:
    scores = [DocumentScore(10.0, 10.0, 10), DocumentScore(0.0, 90.0, 90)]
    assert degradation(scores) == 0.1


@pytest.mark.parametrize("scores", [[], [DocumentScore(1.0, 1.0, 1)], [DocumentScore(0.0, 0.0, 0)] * 3])
def test_too_little_data_has_no_bound(scores: list[DocumentScore]) -> None:
    with pytest.raises(ValueError, match="at least two documents"):
        upper_bound(scores, 0.95, 0)
