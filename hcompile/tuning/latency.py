"""Predicted time of an attention node from the measured times of its heads' classes.

A plan's mix of heads is hardly ever seen twice, so it is not measured while plans are being compared: nodes whose heads
all have one pattern are. A node takes a constant for its launch, and the time of each of its heads, found by dividing
what a uniform node takes. Once a plan stands, its nodes are measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

from hcompile.patterns import Dense, Pattern
from hcompile.site import Site
from hcompile.workload import Workload

Timer = Callable[[Workload], float]
"""Returns the median time of a workload in microseconds; from the tuning database where it is there."""


class LatencyTable:
    """Times of heads by pattern and length, measured when first asked for.

    Lengths between two powers of two are interpolated on logarithmic scales, on which both the quadratic time of dense
    heads and the linear time of local ones are straight.
    """

    def __init__(self, time_us: Timer, *, dtype: str, batch: int = 1) -> None:
        self._time_us = time_us
        self._dtype = dtype
        self._batch = batch
        self._nodes: dict[Workload, float] = {}

    def node_overhead_us(self, site: Site) -> float:
        """Return what a node costs before its first pair: the time of a call of one token."""
        return self._uniform_us(Dense(), site, 1)

    def head_us(self, pattern: Pattern, site: Site, length: int) -> float:
        """Return the time that one head of this pattern adds to a node of `site` at `length` tokens."""
        low = 1 << (length.bit_length() - 1)
        below = self._knot_us(pattern, site, low)
        if low == length:
            return below
        above = self._knot_us(pattern, site, 2 * low)
        share = math.log2(length / low)
        return float(below ** (1 - share) * above**share)

    def predict_node_us(self, heads: Iterable[Pattern], site: Site, length: int) -> float:
        """Return the predicted time of one node whose heads have these patterns."""
        return self.node_overhead_us(site) + sum(self.head_us(pattern, site, length) for pattern in heads)

    def _knot_us(self, pattern: Pattern, site: Site, length: int) -> float:
        return sum(share * self._part_us(part, site, length) for share, part in pattern.timed_as() if share)

    def _part_us(self, pattern: Pattern, site: Site, length: int) -> float:
        # Where no key is hidden a head does what a dense one does.
        seen = pattern if pattern.hides(length) else Dense()
        node_us = self._uniform_us(seen, site, length)
        # On a busy machine a call of one token may wait for its threads longer than a long call takes. Were all of that
        # overhead, every head would be as good as free, and none worth narrowing: half of a call is its heads'.
        return max(node_us - self.node_overhead_us(site), 0.5 * node_us) / site.q_heads

    def _uniform_us(self, pattern: Pattern, site: Site, length: int) -> float:
        workload = node_workload(
            (pattern,) * site.q_heads, site, length, dtype=self._dtype, batch=self._batch
        )
        if workload not in self._nodes:
            self._nodes[workload] = self._time_us(workload)
        return self._nodes[workload]


def node_workload(
    heads: Sequence[Pattern], site: Site, length: int, *, dtype: str, batch: int = 1
) -> Workload:
    """Return the workload of one prefill call of a node at `length` tokens."""
    return Workload.of(
        (pattern.alike() for pattern in heads),
        kv_heads=site.kv_heads,
        head_dim=site.head_dim,
        q_len=length,
        kv_len=length,
        causal=site.causal,
        dtype=dtype,
        batch=batch,
    )
