"""Times calls on a GPU against each other: in turn, from cold caches, by events on the device.

Each round begins with another call: what stands behind a long call finds the device hot and its clock lower.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from statistics import median

import torch

from hcompile.tuning_db.key import Device
from hcompile.versions import library_versions

FLUSH_BYTES = 256 * 2**20
"""Read before each call: several times the second-level cache. Written lines would go back to memory on its time."""
LEAD_CYCLES = 2_000_000
"""The device waits this long before each call, about 1 ms, so that the host has launched it by then. With 0.2 ms the
first call of a round, after which the host waits, came out up to a third slower than it is."""


def time_gpu(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Time calls in turn (A, B, A, B, ...), each from cold caches. Returns microseconds of each round by name."""
    flush = torch.zeros(FLUSH_BYTES // 8, dtype=torch.int64, device="cuda")
    for call in calls.values():
        for _ in range(2):
            call()
    torch.cuda.synchronize()
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in calls}
    order = list(calls.items())
    for turn in range(rounds):
        first = turn % len(order)
        for name, call in order[first:] + order[:first]:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            flush.sum()
            torch.cuda._sleep(LEAD_CYCLES)
            start.record()
            call()
            end.record()
            events[name].append((start, end))
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


def gpu() -> Device:
    """Return the facts of the current GPU; its cores are multiprocessors."""
    facts = torch.cuda.get_device_properties(torch.cuda.current_device())
    return Device(
        kind="cuda",
        model=facts.name,
        isa=f"sm_{facts.major}{facts.minor}",
        cores=facts.multi_processor_count,
        threads=facts.multi_processor_count * facts.max_threads_per_multi_processor,
        memory_class=f"{facts.total_memory >> 30}GiB",
    )


def versions() -> dict[str, str]:
    """Return the versions of libraries that GPU kernels depend on."""
    return library_versions() | {"triton": version("triton")}
