"""From which length the hybrid graph is used."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcompile.runtime.crossover import Crossover, Timing

times = st.lists(
    st.tuples(st.integers(1, 9999), st.floats(1, 1e6), st.floats(1, 1e6)),
    unique_by=lambda time: time[0],
    max_size=8,
)


@given(times)
def test_it_is_the_least_measured_length_from_which_on_hybrid_always_won(
    measured: list[tuple[int, float, float]],
) -> None:
    timings = [Timing(*time) for time in measured]
    found = Crossover.of(timings).hybrid_from
    wins = {timing.length: timing.hybrid_us <= 0.98 * timing.dense_us for timing in timings}
    starts = [length for length in wins if all(won for other, won in wins.items() if other >= length)]
    assert found == min(starts, default=None)


def test_a_win_within_the_noise_does_not_count() -> None:
    assert Crossover.of([Timing(128, 100.0, 99.0), Timing(512, 100.0, 90.0)]).hybrid_from == 512
    assert Crossover.of([Timing(128, 100.0, 50.0), Timing(512, 100.0, 99.0)]).hybrid_from is None


def test_timings_are_kept_by_rising_length() -> None:
    crossover = Crossover.of([Timing(512, 2.0, 1.0), Timing(128, 2.0, 1.0)])
    assert [timing.length for timing in crossover.timings] == [128, 512]


def test_lengths_from_the_crossover_on_take_the_hybrid_graph() -> None:
    assert [Crossover(100).takes_hybrid(length) for length in (1, 99, 100, 9999)] == [
        False,
        False,
        True,
        True,
    ]
    assert not Crossover(None).takes_hybrid(2**20)


@given(times)
def test_it_survives_json(measured: list[tuple[int, float, float]]) -> None:
    crossover = Crossover.of(Timing(*time) for time in measured)
    assert Crossover.from_json(json.loads(json.dumps(crossover.to_json()))) == crossover


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"hybrid_from": 3},
        {"hybrid_from": 1.5, "timings": []},
        {"hybrid_from": True, "timings": []},
        {"hybrid_from": 1, "timings": [{"length": 1}]},
        {"hybrid_from": 1, "timings": [{"length": 0, "dense_us": 1.0, "hybrid_us": 1.0}]},
        {"hybrid_from": 1, "timings": [{"length": 1, "dense_us": "1", "hybrid_us": 1.0}]},
        {"hybrid_from": 1, "timings": 3},
    ],
)
def test_json_that_is_no_crossover_is_refused(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        Crossover.from_json(value)
