"""Allocation: the fastest choice of one option per unit whose predicted degradation stays within a limit."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from hcompile.errors import HCompileError

_GAP = 1e-4
"""Relative gap to the optimum that ends the search; scores are known to some percent only."""

_OPTIMAL, _INFEASIBLE = 0, 2


def allocate(
    latency_us: Sequence[Sequence[float]], cost: Sequence[Sequence[float]], limit: float
) -> tuple[int, ...] | None:
    """Return the index of each unit's option, or None when no choice stays within the limit.

    A multiple-choice knapsack, solved to 0.01 % by scipy's HiGHS; equal arguments give equal choices.

    Args:
        latency_us: by unit and option, the predicted time.
        cost: by unit and option, the predicted degradation; it may be negative.
        limit: what the costs of the chosen options may add up to.

    Raises:
        ValueError: the two tables differ in shape, a unit has no option, or a number is not finite.
    """
    shape = [len(row) for row in latency_us]
    if shape != [len(row) for row in cost] or not shape or not min(shape):
        raise ValueError("latencies and costs must be tables of the same shape with an option for each unit")
    times = np.concatenate([np.asarray(row, dtype=np.float64) for row in latency_us])
    costs = np.concatenate([np.asarray(row, dtype=np.float64) for row in cost])
    if not (np.isfinite(times).all() and np.isfinite(costs).all() and np.isfinite(limit)):
        raise ValueError("latencies, costs and the limit must be finite")
    # HiGHS works with absolute tolerances near 1e-7, so both rows are scaled to numbers around one.
    unit_of = np.repeat(np.arange(len(shape)), shape)
    columns = np.arange(len(times))
    one_each = csr_array((np.ones(len(times)), (unit_of, columns)), shape=(len(shape), len(times)))
    scale = max(abs(limit), float(np.abs(costs).max()) / len(shape)) or 1.0
    with _nothing_printed():
        found = milp(
            times / (times.max() or 1.0),
            integrality=np.ones(len(times)),
            bounds=Bounds(0, 1),
            constraints=[
                LinearConstraint(one_each, 1, 1),
                LinearConstraint(costs[None] / scale, -np.inf, limit / scale),
            ],
            options={"mip_rel_gap": _GAP},
        )
    if found.status == _INFEASIBLE:
        return None
    if found.status != _OPTIMAL:
        raise HCompileError(f"the allocation of patterns failed in scipy.optimize.milp: {found.message}")
    picked = np.flatnonzero(found.x > 0.5)
    first = np.cumsum([0, *shape[:-1]])
    return tuple(int(column - first[unit_of[column]]) for column in picked)


@contextmanager
def _nothing_printed() -> Iterator[None]:
    """Keep what C code writes to the standard output out of it: HiGHS 1.12 tells of its repairs there, unasked."""
    try:
        sys.stdout.flush()
        kept = os.dup(1)
    except (OSError, AttributeError, ValueError):  # There is no standard output.
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
