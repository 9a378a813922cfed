"""Timing in turns, and knowing when other work disturbed it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from hcompile.tuning.timing import Rounds, time_calls


def _spin(seconds: float) -> None:
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


def _noting(log: list[str], name: str) -> Callable[[], None]:
    return lambda: log.append(name)


def test_calls_are_timed_in_turn_after_two_calls_each_and_the_lead_changes() -> None:
    log: list[str] = []
    timing = time_calls([_noting(log, "a"), _noting(log, "b")], Rounds(least=3, most=3))
    assert log == ["a", "a", "b", "b", *("a", "b"), *("b", "a"), *("a", "b")]
    assert [len(times) for times in timing.times_us] == [3, 3]


def test_times_are_in_microseconds() -> None:
    (times,) = time_calls([lambda: _spin(0.002)], Rounds(least=5, most=5)).times_us
    assert 2000 <= min(times) < 200_000


def test_rounds_end_when_each_call_has_run_long_enough() -> None:
    (times,) = time_calls([lambda: _spin(0.005)], Rounds(least=2, most=100, enough_s=0.02)).times_us
    assert 2 <= len(times) <= 5


def test_a_call_above_the_limit_is_timed_once() -> None:
    log: list[str] = []
    timing = time_calls([_noting(log, "a")], Rounds(limit_us=0))
    assert len(timing.times_us[0]) == 1
    assert log == ["a", "a"]


def test_slow_calls_are_warmed_up_once_and_timed_once() -> None:
    log: list[str] = []
    timing = time_calls([_noting(log, "a"), _noting(log, "b")], Rounds(enough_s=0, slow_us=0))
    assert log == ["a", "b"] * 2
    assert [len(times) for times in timing.times_us] == [1, 1]


def test_the_limit_does_not_cut_calls_that_are_compared() -> None:
    timing = time_calls([lambda: _spin(0.002)] * 2, Rounds(least=3, most=3, limit_us=1000))
    assert [len(times) for times in timing.times_us] == [3, 3]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how busy the cores are")
def test_other_work_makes_a_timing_noisy() -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as other:
        timing = time_calls([lambda: _spin(0.05)], Rounds(least=10, most=10))
        other.kill()
    assert timing.noisy
