"""What a warpgroup of the Hopper prefill kernel does with a block's scores: hide what is not seen, and take weights."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def hide(
    scores, key, end, low, window, sink_end, key_mask, holes,
    CAUSAL: gl.constexpr, HAS_VALID: gl.constexpr, HALF: gl.constexpr, KEYS: gl.constexpr, layout: gl.constexpr,
):  # fmt: skip
    """Put -inf where a query does not see a key, if there is such a pair in the block."""
    last = key + KEYS - 1
    past = (low + HALF - 1 - gl.maximum(key, sink_end) >= window) | (last - low >= window)
    hidden = (last >= end) | holes | ((last >= sink_end) & past)
    if CAUSAL:
        hidden = hidden | (last > low)
    if hidden:
        rows = low + gl.arange(0, HALF, gl.SliceLayout(1, layout))
        keys = key + gl.arange(0, KEYS, gl.SliceLayout(0, layout))
        sink = keys < sink_end
        near = (keys[None, :] > (rows - window)[:, None]) | sink[None, :]
        if CAUSAL:
            seen = near & (keys[None, :] < gl.minimum(rows + 1, end)[:, None])
        else:
            far = (keys[None, :] < (rows + window)[:, None]) | sink[None, :]
            seen = near & far & (keys < end)[None, :]
        if HAS_VALID:
            valid = gl.load(key_mask + keys, mask=keys < end, other=0) != 0
            seen = seen & valid[None, :]
        scores = gl.where(seen, scores, float("-inf"))
    return scores


@gluon.jit
def softmax(scores, peak, total, scale):
    """Return the weights of a block, the new peaks and sums of its rows, and what older sums are worth now."""
    new = gl.maximum(peak, gl.max(scores, 1) * scale)
    # A row that has seen nothing has the peak -inf, from which nothing can be subtracted.
    base = gl.where(new == float("-inf"), 0.0, new)
    decay = gl.exp2(peak - base)
    weights = gl.exp2(scores * scale - base[:, None])
    return weights, new, total * decay + gl.sum(weights, 1), decay
