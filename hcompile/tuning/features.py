"""What the cost model sees of a candidate: its schedule, the workload, the machine, and how the three fit together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from hcompile.patterns import Pattern
from hcompile.schedules import Schedule
from hcompile.schedules.template import get_template
from hcompile.tuning.machine import Machine
from hcompile.tuning.problem import Floats
from hcompile.workload import Workload

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def compiler_features(facts: Mapping[str, float]) -> list[float]:
    """Return what a compiler said of a kernel (`Backend.facts`), in the order of the names."""
    return [math.log2(1 + facts[name]) for name in sorted(facts)]


def features(
    workload: Workload, machine: Machine, schedules: Iterable[Schedule], encoded: Iterable[Sequence[float]]
) -> Floats:
    """Return one row per schedule `[N, F]`: its encoding by the space, its fit, the workload and the machine.

    Args:
        encoded: by schedule, as the space encodes it, and with what the compiler said where it is known.
    """
    shared = [*_workload_features(workload), *machine.features()]
    rows = [
        [*row, *_fit_features(workload, machine, schedule), *shared]
        for schedule, row in zip(schedules, encoded, strict=True)
    ]
    return np.array(rows, dtype=np.float64)


def work(workload: Workload) -> float:
    """Return what times are divided by to compare workloads: visited pairs of heads and rows, times the head size."""
    return float(workload.batch * workload.head_dim * max(1, _visited(workload)))


def _fit_features(workload: Workload, machine: Machine, schedule: Schedule) -> list[float]:
    """Relate the tile sizes, where the template has them, to the patterns and the caches."""
    values = dict(schedule.values)
    block_q = values.get("block_q", values.get("rows", 1))
    block_k = values.get("block_k", values.get("keys", 1))
    pairs = sum(count * _computed(workload, pattern, schedule) for pattern, count in workload.heads)
    # A query tile keeps Q and the output; a key block brings K, V and the scores, all as float32 on a CPU.
    element_bytes = 4 if "block_q" in values else _BYTES[workload.dtype]
    elements = 2 * block_q * workload.head_dim + block_q * block_k + 2 * block_k * workload.head_dim
    tile_bytes = element_bytes * elements
    query_tiles = workload.batch * workload.q_heads * math.ceil(workload.q_len / block_q)
    return [
        math.log2(pairs / max(1, _visited(workload))),
        math.log2(tile_bytes / machine.l1_bytes),
        math.log2(tile_bytes / machine.l2_bytes),
        math.log2(query_tiles / machine.threads),
    ]


def _computed(workload: Workload, pattern: Pattern, schedule: Schedule) -> int:
    """Count the pairs that one head computes, as the schedule's template does."""
    if pattern.reads_lists:  # Tiles divide or multiply the blocks of lists.
        return pattern.visited_pairs(workload.q_len, workload.kv_len, causal=workload.causal)
    try:
        count = get_template(schedule.template).tile_pairs
    except KeyError:  # A template of another package: what its tiles make of a pattern is not known.
        return pattern.visited_pairs(workload.q_len, workload.kv_len, causal=workload.causal)
    return count(schedule, pattern, workload.q_len, workload.kv_len, causal=workload.causal)


def _workload_features(workload: Workload) -> list[float]:
    """Describe the shape, and the histogram of the heads by the share of the work of narrow, wide and dense ones."""
    shares = {"narrow": 0.0, "wide": 0.0, "dense": 0.0}
    for pattern, count in workload.heads:
        pairs = pattern.visited_pairs(workload.q_len, workload.kv_len, causal=workload.causal)
        window, sinks = pattern.params()
        narrow = window + sinks <= 256 and not pattern.reads_lists
        kind = "dense" if window >= workload.kv_len else "narrow" if narrow else "wide"
        shares[kind] += count * pairs / max(1, _visited(workload))
    kv_bytes = 2 * workload.kv_heads * workload.kv_len * workload.head_dim * _BYTES[workload.dtype]
    return [
        math.log2(workload.batch * workload.q_heads),
        math.log2(workload.q_heads / workload.kv_heads),
        math.log2(workload.q_len),
        math.log2(workload.kv_len),
        math.log2(workload.head_dim),
        float(_BYTES[workload.dtype]),
        float(workload.causal),
        math.log2(kv_bytes),
        math.log2(max(1, _visited(workload)) / (workload.q_heads * workload.q_len)),
        *shares.values(),
    ]


def _visited(workload: Workload) -> int:
    """Count the pairs that all heads of one batch row visit."""
    return sum(
        count * pattern.visited_pairs(workload.q_len, workload.kv_len, causal=workload.causal)
        for pattern, count in workload.heads
    )
