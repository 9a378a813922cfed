"""The time of a call on a GPU: of a kernel by events from cold caches, of a whole model on the host's clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache

import torch

FLUSH_BYTES = 256 * 2**20
"""Read before each call: several times the second-level cache. Written lines would go back to memory on its time."""
LEAD_CYCLES = 2_000_000
"""The device waits this long before each call, about 1 ms, so that the host has launched it by then. With 0.2 ms the
first call of a round, after which the host waits, came out up to a third slower than it is."""


@cache
def _flushing() -> torch.Tensor:
    return torch.zeros(FLUSH_BYTES // 8, dtype=torch.int64, device="cuda")


def enqueue(call: Callable[[], object]) -> tuple[torch.cuda.Event, torch.cuda.Event]:
    """Enqueue a call behind a flush of the caches, and return the events around it; waits for nothing."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    _flushing().sum()
    torch.cuda._sleep(LEAD_CYCLES)
    start.record()
    call()
    end.record()
    return start, end


def cold_us(call: Callable[[], object]) -> float:
    """Return the time of one call on the device in microseconds."""
    start, end = enqueue(call)
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) * 1000


def settled_us(call: Callable[[], object]) -> float:
    """Return the time in microseconds until everything that a call starts on the device is done, host included."""
    torch.cuda.synchronize()
    start = time.perf_counter_ns()
    call()
    torch.cuda.synchronize()
    return (time.perf_counter_ns() - start) / 1000
