"""The percentile over tokens: what is kept of a document, and the coverage of its bound."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcompile.policy.documents import Document
from hcompile.policy.metrics.score import DocumentScore, merged, size_of, step_of, steps_of
from hcompile.policy.quantile import Quantile
from hcompile.policy.statistics import by_origin, likely_bound

P99 = Quantile(0.01)


def score_of(values: np.ndarray) -> DocumentScore:
    return DocumentScore(float(values.sum()), float(len(values)), len(values), steps_of(values.tolist()))


def documents(
    rng: np.random.Generator, count: int, tokens: int = 256, spread: float = 0.5
) -> list[DocumentScore]:
    """Log-normal tokens, in runs of 8 equal ones, of documents that differ by `spread` in the logarithm."""
    runs = rng.normal(0, 1.5, (count, tokens // 8)).repeat(8, 1)
    return [score_of(row) for row in np.exp(runs + rng.normal(0, spread, (count, 1)))]


@given(st.floats(1e-9, 1e6))
def test_a_step_rounds_up_by_little(value: float) -> None:
    size = size_of(step_of(value))
    assert value <= size <= value * 1.0221 and size_of(step_of(size)) == size


def test_no_degradation_is_the_lowest_step() -> None:
    assert size_of(step_of(0.0)) == size_of(step_of(-1.0)) == 0.0
    assert 0 < size_of(step_of(1e-30)) < 1e-9


def test_the_estimate_is_the_percentile_over_all_tokens() -> None:
    values = np.random.default_rng(0).lognormal(0, 1, (5, 400))
    found = P99.estimate([score_of(row) for row in values])
    exact = np.quantile(values, 0.99, method="inverted_cdf")
    assert exact <= found <= 1.0221 * exact


def test_scores_survive_json_and_those_without_a_tail_keep_their_form() -> None:
    for score in (score_of(np.array([0.0, 0.5, 0.5, 3.0])), DocumentScore(1.5, 3.0, 3)):
        assert DocumentScore.from_json(json.loads(json.dumps(score.to_json()))) == score
    assert DocumentScore(1.5, 3.0, 3).to_json() == [1.5, 3.0, 3]


def test_parts_of_one_text_are_counted_together() -> None:
    parts = [score_of(np.full(10, size)) for size in (0.1, 0.2, 0.3, 0.4)]
    rows = [Document(str(n), {}, origin=str(n // 2)) for n in range(4)]
    first, second = by_origin(rows, parts)
    assert P99.estimate([first, second]) == P99.estimate(parts) == P99.estimate([merged(parts)])
    assert first.tokens == 20 and [count for _, count in second.steps] == [10, 10]


@pytest.mark.parametrize(("count", "spread"), [(32, 0.5), (48, 0.5), (48, 1.0)])
def test_coverage_is_near_its_name(count: int, spread: float) -> None:
    """Tokens that depend on each other within documents that differ: see ADR 13 for more runs."""
    rng = np.random.default_rng(1)
    truth = math.exp(2.3263 * math.hypot(1.5, spread))
    runs = 150
    covered = sum(
        P99.bound(documents(rng, count, spread=spread), 0.95, seed, 300) >= truth for seed in range(runs)
    )
    # 92 to 95 % in 2000 runs; three standard errors of 150 runs are 6 %.
    assert covered / runs >= 0.86


def test_one_document_that_carries_the_tail_leaves_doubt() -> None:
    """47 documents without loss and one that loses much in 30 % of its tokens: .6 % of all, and nobody knows."""
    quiet, bad = np.full(1000, 0.001), np.where(np.arange(1000) < 300, 5.0, 0.001)
    scores = [score_of(quiet)] * 47 + [score_of(bad)]
    assert P99.estimate(scores) < 0.0011 and P99.bound(scores, 0.95, 0) >= 5.0


def test_the_bound_is_not_below_the_estimate_and_repeatable() -> None:
    scores = documents(np.random.default_rng(3), 40)
    assert P99.bound(scores, 0.95, 0, 500) == P99.bound(scores, 0.95, 0, 500) >= P99.estimate(scores)


def test_a_later_bound_is_likely_below_the_likely_one() -> None:
    rng = np.random.default_rng(4)
    runs = 40
    kept = sum(
        P99.bound(documents(rng, 48), 0.95, seed, 300)
        <= likely_bound(documents(rng, 24), 48, 0.95, seed, Short(0.01))
        for seed in range(runs)
    )
    assert kept / runs >= 0.8


class Short(Quantile):
    """With fewer resamples, for speed."""

    def bound(self, scores, confidence, seed, resamples=300):  # type: ignore[no-untyped-def]
        return super().bound(scores, confidence, seed, resamples)


@pytest.mark.parametrize("beyond", [0.0, 0.6, 1.0])
def test_other_shares_are_refused(beyond: float) -> None:
    with pytest.raises(ValueError, match="wanted one in"):
        Quantile(beyond)
