"""Shares of trials that went wrong: the bound where nothing did, and its coverage where trials depend on each other."""

from __future__ import annotations

import numpy as np
import pytest

from hcompile.errors import UsageError
from hcompile.policy.metrics.score import DocumentScore
from hcompile.policy.share import Share
from hcompile.policy.statistics import upper_bound

SHARE = Share("pairs")


def scores_of(faults: list[int], trials: int = 12) -> list[DocumentScore]:
    return [DocumentScore(float(count), float(trials), trials) for count in faults]


def test_no_fault_in_n_trials_leaves_the_binomial_doubt() -> None:
    assert SHARE.estimate(scores_of([0] * 48)) == 0.0
    assert SHARE.bound(scores_of([0] * 48), 0.95, 0) == pytest.approx(1 - 0.05 ** (1 / 576))


def test_faults_that_come_together_leave_the_doubt_of_documents() -> None:
    apart, together = scores_of([1] * 12 + [0] * 36), scores_of([12] + [0] * 47)
    assert SHARE.bound(apart, 0.95, 0) < SHARE.bound(together, 0.95, 0) == upper_bound(together, 0.95, 0)


def test_documents_without_a_trial_say_nothing() -> None:
    some = scores_of([1, 0, 2, 0, 1, 0, 0, 1, 0])
    assert SHARE.bound([*some, *scores_of([0] * 9, 0)], 0.95, 0) == SHARE.bound(some, 0.95, 0)
    with pytest.raises(UsageError, match="there are no pairs in 2 documents"):
        SHARE.estimate(scores_of([0, 0], 0))


def test_all_faults_and_one_document_have_a_bound() -> None:
    assert SHARE.bound(scores_of([12, 12]), 0.95, 0) == 1.0
    assert 1 / 12 < SHARE.bound(scores_of([1]), 0.95, 0) < 0.4


@pytest.mark.parametrize(("share", "alike"), [(0.004, 0.0), (0.02, 0.0), (0.02, 0.02), (0.05, 0.05)])
def test_coverage_is_near_its_name(share: float, alike: float) -> None:
    """`alike` is the correlation of two trials of one document (beta-binomial)."""
    rng = np.random.default_rng(0)
    runs = 200
    covered = 0
    for seed in range(runs):
        strength = 1 / alike - 1 if alike else 0.0
        rates = rng.beta(share * strength, (1 - share) * strength, 48) if alike else np.full(48, share)
        covered += SHARE.bound(scores_of(rng.binomial(12, rates).tolist()), 0.95, seed, 500) >= share
    # 95 to 100 % in 1000 runs; three standard errors of 200 runs are 5 %.
    assert covered / runs >= 0.89
