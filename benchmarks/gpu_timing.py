"""Times calls on a GPU against each other: in turn, from cold caches, by events on the device.

Each round begins with another call: what stands behind a long call finds the device hot and its clock lower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from statistics import median

import torch

from hcompile.tuning.gpu_clock import enqueue


def time_gpu(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time calls in turn (A, B, A, B, ...), each from cold caches. Returns microseconds of each round by name."""
    for call in calls.values():
        for _ in range(2):
            call()
    torch.cuda.synchronize()
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in calls}
    order = list(calls.items())
    for turn in range(rounds):
        first = turn % len(order)
        for name, call in order[first:] + order[:first]:
            events[name].append(enqueue(call))
        torch.cuda.synchronize()
    return {name: [start.elapsed_time(end) * 1000 for start, end in pairs] for name, pairs in events.items()}


def ceilings() -> dict[str, float]:
    """Measure what this device reaches: bfloat16 matrix products in TFLOP/s, and reading memory in TB/s."""
    size = 8192
    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    big = torch.empty(2**31, dtype=torch.uint8, device="cuda").view(torch.int64)
    times = time_gpu({"product": lambda: a @ b, "read": lambda: big.sum(), "copy": big.clone}, 9)
    middle = {name: median(each) for name, each in times.items()}
    return {
        "product_tflops": round(2 * size**3 / middle["product"] / 1e6, 1),
        "read_tbps": round(2**31 / middle["read"] / 1e6, 3),
        "copy_tbps": round(2 * 2**31 / middle["copy"] / 1e6, 3),
    }
