"""Which calls take the hybrid graph, by batch and length."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcompile.runtime.crossover import Crossover, Timing

measured_times = st.lists(
    st.builds(
        Timing,
        length=st.integers(1, 99),
        dense_us=st.floats(1, 1e6),
        hybrid_us=st.floats(1, 1e6),
        batch=st.integers(1, 5),
    ),
    unique_by=lambda timing: (timing.batch, timing.length),
    max_size=12,
)


def takes_hybrid(timings: list[Timing], batch: int, length: int) -> bool:
    """Decide as the rule is stated, from the measurements alone."""
    batches = sorted({timing.batch for timing in timings if timing.batch <= batch}, reverse=True)
    for own in batches:
        row = {timing.length: timing.won for timing in timings if timing.batch == own}
        starts = [start for start in row if all(won for other, won in row.items() if other >= start)]
        if starts:
            return length >= min(starts)
        if length <= max(row):
            return False
    return False


@given(measured_times, st.integers(1, 7), st.integers(1, 120))
def test_a_call_goes_by_the_largest_measured_batch_below_it_and_beyond_its_lengths_by_the_next_smaller(
    timings: list[Timing], batch: int, length: int
) -> None:
    assert Crossover.of(timings).takes_hybrid(batch, length) == takes_hybrid(timings, batch, length)


@given(measured_times, st.integers(1, 7))
def test_longer_calls_of_a_batch_stay_hybrid(timings: list[Timing], batch: int) -> None:
    crossover = Crossover.of(timings)
    taken = [crossover.takes_hybrid(batch, length) for length in range(1, 120)]
    assert taken == sorted(taken)


def test_a_win_within_the_noise_does_not_count() -> None:
    assert Crossover.of([Timing(128, 100.0, 99.0), Timing(512, 100.0, 90.0)]).hybrid_from == ((1, 512),)
    assert Crossover.of([Timing(128, 100.0, 50.0), Timing(512, 100.0, 99.0)]).hybrid_from == ((1, None),)


def test_more_rows_have_a_start_of_their_own() -> None:
    lost, won = (100.0, 120.0), (100.0, 60.0)
    crossover = Crossover.of(
        [
            Timing(128, *lost),
            Timing(1024, *won),
            Timing(128, *won, batch=4),
            Timing(128, *lost, batch=16),
            Timing(256, *lost, batch=16),
            Timing(2048, *lost, batch=64),
        ]
    )
    assert crossover.hybrid_from == ((1, 1024), (4, 128), (16, 257), (64, 2049))
    assert [crossover.takes_hybrid(batch, 128) for batch in (1, 3, 4, 15, 16)] == [
        False,
        False,
        True,
        True,
        False,
    ]


def test_timings_are_kept_by_rising_batch_and_length() -> None:
    crossover = Crossover.of([Timing(512, 2.0, 1.0), Timing(64, 2.0, 1.0, batch=4), Timing(128, 2.0, 1.0)])
    assert [(timing.batch, timing.length) for timing in crossover.timings] == [(1, 128), (1, 512), (4, 64)]


def test_lengths_from_the_crossover_on_take_the_hybrid_graph() -> None:
    crossover = Crossover.from_length(100)
    for batch in (1, 64):
        taken = [crossover.takes_hybrid(batch, length) for length in (1, 99, 100, 9999)]
        assert taken == [False, False, True, True]
    assert not Crossover().takes_hybrid(1, 2**20)


def test_a_call_of_fewer_rows_than_were_measured_is_dense() -> None:
    assert not Crossover(((4, 10),)).takes_hybrid(3, 100)


@given(measured_times)
def test_it_survives_json(timings: list[Timing]) -> None:
    crossover = Crossover.of(timings)
    assert Crossover.from_json(json.loads(json.dumps(crossover.to_json()))) == crossover


def test_its_json_has_a_length_for_each_batch() -> None:
    crossover = Crossover.of([Timing(128, 2.0, 3.0), Timing(64, 2.0, 1.0, batch=4)])
    assert crossover.to_json() == {
        "hybrid_from": {"1": None, "4": 64},
        "timings": [
            {"batch": 1, "length": 128, "dense_us": 2.0, "hybrid_us": 3.0},
            {"batch": 4, "length": 64, "dense_us": 2.0, "hybrid_us": 1.0},
        ],
    }


@pytest.mark.parametrize("start", [256, None])
def test_one_of_schema_1_was_measured_with_batch_1(start: int | None) -> None:
    timings = [{"length": 128, "dense_us": 1.0, "hybrid_us": 2.0}]
    crossover = Crossover.from_json({"hybrid_from": start, "timings": timings})
    assert crossover == Crossover(((1, start),), (Timing(128, 1.0, 2.0, batch=1),))
    assert crossover.takes_hybrid(9, 256) == (start is not None)


TIMING = {"batch": 1, "length": 1, "dense_us": 1.0, "hybrid_us": 1.0}
OLD_TIMING = {"length": 1, "dense_us": 1.0, "hybrid_us": 1.0}


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"hybrid_from": {}},
        {"hybrid_from": 1.5, "timings": []},
        {"hybrid_from": True, "timings": []},
        {"hybrid_from": [[1, 2]], "timings": []},
        {"hybrid_from": {"1": "2"}, "timings": []},
        {"hybrid_from": {"1": -1}, "timings": []},
        {"hybrid_from": {"0": 1}, "timings": []},
        {"hybrid_from": {"01": 1}, "timings": []},
        {"hybrid_from": {"x": 1}, "timings": []},
        {"hybrid_from": {"4": 1, "1": 1}, "timings": []},
        {"hybrid_from": {"1": 1}, "timings": [OLD_TIMING]},
        {"hybrid_from": 1, "timings": [TIMING]},
        {"hybrid_from": {"1": 1}, "timings": [{**TIMING, "batch": 0}]},
        {"hybrid_from": {"1": 1}, "timings": [{**TIMING, "length": 0}]},
        {"hybrid_from": {"1": 1}, "timings": [{**TIMING, "dense_us": "1"}]},
        {"hybrid_from": {"1": 1}, "timings": [{**TIMING, "more": 1}]},
        {"hybrid_from": {"1": 1}, "timings": [TIMING, TIMING]},
        {"hybrid_from": {"1": 1}, "timings": [3]},
        {"hybrid_from": {"1": 1}, "timings": 3},
        {"hybrid_from": 1, "timings": 3},
    ],
)
def test_json_that_is_no_crossover_is_refused(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        Crossover.from_json(value)
