"""Which keys the portable kernels visit and which pairs they hide, from windows, sinks and positions."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def visited(first, end, low, high, window, sinks, KEYS: tl.constexpr):
    """Return the ranges of keys [first, end_a) and [start_b, end_b) that queries at low to high see, and how many
    blocks they have: of the first, of both.

    Valid keys, less those that causality hides from all of them, are [first, end).
    """
    end_a = tl.maximum(first, tl.minimum(first + sinks, end))
    start_b = tl.maximum(first, low - window + 1)
    end_b = tl.maximum(start_b, tl.minimum(end, high + window))
    if start_b <= end_a:
        end_a = tl.maximum(end_a, end_b)
        start_b = end_b
    blocks_a = (end_a - first + KEYS - 1) // KEYS
    return end_a, start_b, end_b, blocks_a, blocks_a + (end_b - start_b + KEYS - 1) // KEYS


@triton.jit
def seen_pairs(positions, keys, windows, sink_ends, CAUSAL: tl.constexpr):
    """Return which pairs `[rows, keys]` lie in a window or at a sink; `windows` and `sink_ends` as `[rows or 1, 1]`."""
    distance = positions[:, None] - keys[None, :]
    sink = keys[None, :] < sink_ends
    seen = (distance < windows) | sink
    if CAUSAL:
        return seen & (distance >= 0)
    else:
        return seen & ((-distance < windows) | sink)
