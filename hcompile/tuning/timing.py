"""Timing of kernels against each other, and how busy other work kept the machine meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

BUSY_SHARE = 0.1
"""Other work on more than this share of the cores makes a timing noisy."""

_STAT = Path("/proc/stat")


@dataclass(frozen=True, slots=True)
class Rounds:
    """How often each call is timed.

    Attributes:
        least, most: timed calls of each candidate, at least and at most.
        enough_s: no further round once each candidate has run for this long.
        limit_us: a call whose second warm-up takes longer than this is timed by that alone.
        slow_us: a call whose first warm-up takes longer than this has no second one, and one round is enough with it.
    """

    least: int = 5
    most: int = 50
    enough_s: float = 0.15
    limit_us: float = float("inf")
    slow_us: float = float("inf")


@dataclass(frozen=True, slots=True)
class Timing:
    """Times of each call in microseconds, and whether other work disturbed them."""

    times_us: tuple[tuple[float, ...], ...]
    noisy: bool


def host_us(call: Callable[[], object]) -> float:
    """Return the time of one call on the host in microseconds."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1000


def graph_clock(device: str) -> Callable[[Callable[[], object]], float]:
    """Return what times a whole model on this kind of device: until all that a call starts is done."""
    if device == "cpu":
        return host_us
    from hcompile.tuning.gpu_clock import settled_us

    return settled_us


def kernel_clock(device: str) -> Callable[[Callable[[], object]], float]:
    """Return what times a kernel on this kind of device: from warm caches on a CPU, from cold ones on a GPU."""
    if device == "cpu":
        return host_us
    from hcompile.tuning.gpu_clock import cold_us

    return cold_us


def time_calls(
    calls: Sequence[Callable[[], object]],
    rounds: Rounds,
    once_us: Callable[[Callable[[], object]], float] = host_us,
) -> Timing:
    """Time calls in turn (A, B, A, B, ...), so that drifts of the machine meet all of them alike.

    Each is called twice before (a slow one once), to fault in memory and to warm caches and thread pools. Each round
    begins with another call: what stands behind a long call may find the device hot and its clock lower.

    Args:
        once_us: times one call; for a GPU one of `hcompile.tuning.gpu_clock`.
    """
    clock = _BusyClock()
    first = []
    for call in calls:
        warm_us = once_us(call)
        first.append(warm_us if warm_us > rounds.slow_us else once_us(call))
    slow = max(first) > rounds.slow_us
    if len(calls) == 1 and not slow and first[0] > rounds.limit_us:
        return Timing(((first[0],),), clock.noisy())
    times: list[list[float]] = [[] for _ in calls]
    spent_us = 0.0
    least = 1 if slow else rounds.least
    while len(times[0]) < least or (len(times[0]) < rounds.most and spent_us < rounds.enough_s * 1e6):
        leader = len(times[0]) % len(calls)
        for index in [*range(leader, len(calls)), *range(leader)]:
            times[index].append(once_us(calls[index]))
        spent_us += max(own[-1] for own in times)
    return Timing(tuple(map(tuple, times)), clock.noisy())


class _BusyClock:
    """Tells since its creation how much of the machine other processes used."""

    def __init__(self) -> None:
        self._start = self._now()

    def noisy(self) -> bool:
        wall, all_busy, own = (now - start for now, start in zip(self._now(), self._start, strict=True))
        # The kernel counts in ticks of 10 ms: shorter intervals say nothing.
        return wall > 0.1 and all_busy - own > BUSY_SHARE * wall * (os.cpu_count() or 1)

    def _now(self) -> tuple[float, float, float]:
        """Return wall time, busy time of all cores (0 where the system does not tell), own busy time, in seconds."""
        own = sum(os.times()[:2])
        if not _STAT.exists():
            return time.monotonic(), 0.0, own
        user, nice, system, _, _, irq, softirq, steal = map(int, _STAT.read_text().split(None, 9)[1:9])
        ticks = os.sysconf("SC_CLK_TCK")
        return time.monotonic(), (user + nice + system + irq + softirq + steal) / ticks, own
