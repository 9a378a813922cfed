"""The test for drift: how often it is wrong on samples at the limit, and how soon it finds what is worse."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcompile.policy.drift import ERROR, LEAST, DriftTest
from hcompile.policy.metrics.score import DocumentScore

Values = np.ndarray


def one(value: float, tokens: int = 100) -> DocumentScore:
    return DocumentScore(value * tokens, float(tokens), tokens)


def found_after(test: DriftTest, values: Values) -> int | None:
    """Return how many samples it takes until a drift is found, None where none is."""
    for count, value in enumerate(values.tolist(), 1):
        test.add(one(value))
        if test.drifting:
            return count
    return None


def log_normal(rng: np.random.Generator, mean: float, count: int, sigma: float = 0.5) -> Values:
    return mean * rng.lognormal(-sigma * sigma / 2, sigma, count)


AT_THE_LIMIT: dict[str, Callable[[np.random.Generator, int], Values]] = {
    "log-normal": lambda rng, count: log_normal(rng, 1.0, count),
    "wide log-normal": lambda rng, count: log_normal(rng, 1.0, count, 1.0),
    "normal, as nll": lambda rng, count: rng.normal(1.0, 5.0, count),
    "one in twenty": lambda rng, count: (rng.random(count) < 0.05) * 20.0,
}


@pytest.mark.parametrize("kind", AT_THE_LIMIT)
def test_over_a_long_run_at_the_limit_false_alarms_are_as_rare_as_their_name(kind: str) -> None:
    rng, runs = np.random.default_rng(0), 100
    alarms = sum(found_after(DriftTest(1.0), AT_THE_LIMIT[kind](rng, 2000)) is not None for _ in range(runs))
    assert alarms / runs <= ERROR


def test_a_bound_at_every_sample_would_be_wrong_far_more_often() -> None:
    """Why a confidence bound is not simply looked at again and again."""
    rng, runs, alarms = np.random.default_rng(0), 100, 0
    for _ in range(runs):
        values = log_normal(rng, 1.0, 2000)
        counts = np.arange(1, 2001)
        means = values.cumsum() / counts
        errors = np.sqrt(((values**2).cumsum() / counts - means**2).clip(0) / counts)
        alarms += bool((means - 1.645 * errors > 1.0)[LEAST:].any())
    assert alarms / runs > 4 * ERROR


@pytest.mark.parametrize(("times", "within"), [(2.0, 60), (10.0, 25)])
def test_a_drift_after_many_good_samples_is_found_soon(times: float, within: int) -> None:
    rng, runs, soon = np.random.default_rng(1), 50, 0
    for _ in range(runs):
        test = DriftTest(1.0)
        assert found_after(test, log_normal(rng, 0.7, 1000)) is None
        found = found_after(test, log_normal(rng, times, 200))
        soon += found is not None and found <= within
    assert soon >= 0.95 * runs


def test_a_model_that_is_off_from_the_start_is_found_once_the_spread_is_known() -> None:
    found = found_after(DriftTest(1.0), log_normal(np.random.default_rng(2), 2.0, 200))
    assert found is not None and LEAST < found <= LEAST + 60


def test_a_drift_is_found_once_passes_and_is_found_again() -> None:
    rng, test, changes = np.random.default_rng(3), DriftTest(1.0), []
    phases = [log_normal(rng, mean, 400) for mean in (0.7, 2.0, 0.7, 2.0)]
    for index, value in enumerate(np.concatenate(phases).tolist()):
        before = test.drifting
        test.add(one(value))
        if test.drifting != before:
            changes.append((index // 400, test.drifting))
    assert changes == [(1, True), (2, False), (3, True)]


@pytest.mark.parametrize("times", [1.1, 1.3])
def test_a_drift_that_stays_is_found_once(times: float) -> None:
    rng, runs, found = np.random.default_rng(6), 20, 0
    for _ in range(runs):
        test, before = DriftTest(1.0), False
        for value in log_normal(rng, times, 3000).tolist():
            test.add(one(value))
            found += test.drifting and not before
            before = test.drifting
    assert found == runs


@pytest.mark.parametrize("value", [1e6, 1e300])
def test_one_call_is_no_drift(value: float) -> None:
    rng, test = np.random.default_rng(4), DriftTest(1.0)
    values = log_normal(rng, 0.7, 200)
    values[100] = value
    assert found_after(test, values) is None


def test_before_enough_samples_nothing_is_judged() -> None:
    test = DriftTest(1.0)
    assert found_after(test, np.full(LEAST, 1e9)) is None and test.evidence == 0.0


def test_long_calls_weigh_more() -> None:
    """The certified degradation is a ratio of sums, here 0.9 though the mean of the calls is 1.5."""
    rng, test = np.random.default_rng(5), DriftTest(1.0)
    for value in rng.lognormal(-0.125, 0.5, 500).tolist():
        test.add(one(2.4 * value, 100) if rng.random() < 0.5 else one(0.6 * value, 500))
    assert not test.drifting


@pytest.mark.parametrize(("value", "drifts"), [(0.0, False), (1e-9, True)])
def test_a_limit_of_nothing_allows_nothing(value: float, drifts: bool) -> None:
    test = DriftTest(0.0)
    found_after(test, np.zeros(LEAST))
    assert (found_after(test, np.full(20, value)) is not None) is drifts


@given(st.lists(st.floats(-1e300, 1e300), min_size=LEAST, max_size=60), st.floats(0, 1e3))
def test_evidence_is_a_finite_number_up_to_enough(values: list[float], limit: float) -> None:
    test = DriftTest(limit)
    for value in values:
        test.add(DocumentScore(value, 1.0, 1))
        assert 0.0 <= test.evidence <= 1.0 / ERROR + 1e-9
