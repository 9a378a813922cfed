"""The bound: its coverage on skewed data, and what it must not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcompile.policy.documents import Document
from hcompile.policy.metrics.score import DocumentScore, degradation, steps_of
from hcompile.policy.quantile import Quantile
from hcompile.policy.share import Share
from hcompile.policy.statistics import (
    MEAN,
    Statistic,
    by_origin,
    independent,
    interval,
    likely_bound,
    lower_bound,
    upper_bound,
)


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


@given(st.lists(st.floats(0, 10), min_size=2, max_size=40), st.integers(0, 5))
def test_the_lower_bound_is_never_above_the_estimate(values: list[float], seed: int) -> None:
    scores = scores_of(values)
    assert lower_bound(scores, 0.95, seed, 500) <= degradation(scores) + 1e-12


def test_the_lower_bound_of_skewed_documents_seldom_exceeds_the_truth() -> None:
    rng = np.random.default_rng(4)
    truth, runs = math.exp(0.125), 200
    above = sum(
        lower_bound(scores_of(rng.lognormal(0, 0.5, 32).tolist()), 0.95, seed, 500) > truth
        for seed in range(runs)
    )
    # 5 % and two standard errors of 200 runs.
    assert above / runs <= 0.08


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.0, 1.0, 2.0], [0.0] * 23 + [1.0]])
def test_a_bound_is_finite_and_above_the_estimate(values: list[float]) -> None:
    scores = scores_of(values)
    assert degradation(scores) < upper_bound(scores, 0.95, 0) < 10


def test_equal_seeds_give_equal_bounds() -> None:
    scores = scores_of([0.1, 0.5, 0.2, 0.9])
    assert upper_bound(scores, 0.95, 3) == upper_bound(scores, 0.95, 3)


def test_documents_that_agree_leave_no_doubt() -> None:
    assert upper_bound(scores_of([0.25] * 40), 0.95, 0) == 0.25


def test_more_documents_tighten_the_bound() -> None:
    values = np.random.default_rng(2).lognormal(0, 0.5, 32).tolist()
    few, many = scores_of(values), scores_of(values * 4)
    assert upper_bound(many, 0.95, 0) < upper_bound(few, 0.95, 0)


def test_parts_of_one_text_are_resampled_together() -> None:
    rng = np.random.default_rng(3)
    texts = rng.lognormal(0, 0.5, 12).tolist()
    parts = scores_of([value for value in texts for _ in range(4)])
    documents = [Document(str(n), {}, origin=str(n // 4)) for n in range(48)]
    together = by_origin(documents, parts)
    assert len(together) == independent(documents) == 12
    assert degradation(together) == pytest.approx(degradation(parts))
    assert upper_bound(together, 0.95, 0) > upper_bound(parts, 0.95, 0)


def test_parts_of_the_only_text_stand_for_themselves() -> None:
    documents = [Document(str(n), {}, origin="one") for n in range(4)]
    assert len(by_origin(documents, scores_of([0.1, 0.2, 0.3, 0.4]))) == independent(documents) == 4


def test_long_documents_weigh_more() -> None:
    scores = [DocumentScore(10.0, 10.0, 10), DocumentScore(0.0, 90.0, 90)]
    assert degradation(scores) == 0.1


@pytest.mark.parametrize("scores", [[], [DocumentScore(1.0, 1.0, 1)], [DocumentScore(0.0, 0.0, 0)] * 3])
def test_too_little_data_has_no_bound(scores: list[DocumentScore]) -> None:
    with pytest.raises(ValueError, match="at least two documents"):
        upper_bound(scores, 0.95, 0)


@pytest.mark.parametrize("statistic", [MEAN, Quantile(0.1), Share("trials")], ids=lambda s: type(s).__name__)
def test_an_interval_holds_the_estimate_and_narrows_with_documents(statistic: Statistic) -> None:
    values = np.random.default_rng(4).uniform(0, 0.2, (96, 20))
    scores = [DocumentScore(float(row.sum()), 20.0, 20, steps_of(row.tolist())) for row in values]
    widths = []
    for count in (24, 96):
        low, high = interval(scores[:count], 0.95, 0, statistic)
        assert 0 <= low <= statistic.estimate(scores[:count]) <= high
        assert (low, high) == interval(scores[:count], 0.95, 0, statistic)
        widths.append(high - low)
    assert 0 < widths[1] < widths[0]


def test_an_interval_of_a_mean_is_the_two_bounds_at_half_the_doubt() -> None:
    scores = scores_of(np.random.default_rng(5).lognormal(0, 0.5, 32).tolist())
    assert interval(scores, 0.95, 0) == (lower_bound(scores, 0.975, 0), upper_bound(scores, 0.975, 0))


def test_an_interval_does_not_reach_below_what_no_document_can() -> None:
    scores = scores_of([0.0] * 11 + [1.0])
    assert lower_bound(scores, 0.975, 0) < 0 == interval(scores, 0.95, 0)[0]
    assert interval(scores[-1:], 0.95, 0) == (1.0, 1.0)
