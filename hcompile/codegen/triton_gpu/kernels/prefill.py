"""The portable prefill kernel (Triton): one query tile of one head a program, with an online softmax.

The visible keys are two ranges that start at any key, computed from (window, sinks) and the position, as in
`hcompile.codegen.triton_gpu.hopper_prefill`, which serves Hopper; this one serves every other GPU, and the interpreter.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hcompile.codegen.triton_gpu.kernels.far_field import far_field
from hcompile.codegen.triton_gpu.kernels.visible import seen_pairs, visited


# Sizes are not looked at: a growing cache would be compiled for anew. Strides and the pointers to rows are, for wide
# loads; the other pointers are read element by element.
@triton.jit(
    do_not_specialize=(
        "biases", "heads", "valid", "key_mask",
        "batch", "long_heads", "q_len", "kv_len", "q_offset", "tiles", "chunks", "before", "scale",
    )
)  # fmt: skip
def prefill(
    q_ptr, k_ptr, v_ptr, o_ptr, sums, features, maps, biases, heads, valid, key_mask,
    batch, long_heads, q_len, kv_len, q_offset, tiles, chunks, before, scale,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, o_batch, o_head, o_row,
    GROUP: tl.constexpr, CAUSAL: tl.constexpr, HAS_VALID: tl.constexpr, FAR: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr, HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr,
):  # fmt: skip
    """Write O of the heads of a table; see `hcompile.operator` for what is not said here. Heads that see everything
    come first, tile by tile from the longest on; then the others, head by head.

    Args:
        heads: int32 `[R, 4]`, head, window, sinks, and one number more.
        sums, features, maps, biases, chunks, before: with FAR of `kernels.far_field`, and all heads have far fields.
    """
    index = tl.program_id(0)
    long_tasks = long_heads * batch * tiles
    if index < long_tasks:
        tile = tiles - 1 - index // (long_heads * batch)
        rest = index % (long_heads * batch)
        b = rest // long_heads
        place = rest % long_heads
    else:
        short = index - long_tasks
        tile = tiles - 1 - short % tiles
        rest = short // tiles
        b = rest % batch
        place = long_heads + rest // batch
    head = tl.load(heads + 4 * place)
    window = tl.minimum(tl.load(heads + 4 * place + 1), 1 << 30)
    sinks = tl.minimum(tl.load(heads + 4 * place + 2), 1 << 30)
    first = 0
    end = kv_len
    holes = False
    if HAS_VALID:
        holes = tl.load(valid + 3 * b + 2) != 0
        first = tl.load(valid + 3 * b)
        end = tl.load(valid + 3 * b + 1)
    row = tile * ROWS
    low = q_offset + row
    high = q_offset + tl.minimum(row + ROWS, q_len) - 1
    if CAUSAL:
        end = tl.minimum(end, high + 1)
    sink_end = first + sinks
    end_a, start_b, end_b, blocks_a, blocks = visited(first, end, low, high, window, sinks, KEYS)

    rows = tl.arange(0, ROWS)
    elements = tl.arange(0, BLOCK_HEAD)
    columns = tl.arange(0, KEYS)
    in_head = (elements < HEAD)[None, :]
    q_at = q_ptr + b.to(tl.int64) * q_batch + head.to(tl.int64) * q_head
    q_rows = (row + rows).to(tl.int64) * q_row
    whole = (row + rows < q_len)[:, None] & in_head
    q = tl.load(q_at + q_rows[:, None] + elements[None, :], mask=whole, other=0.0)
    k_at = k_ptr + b.to(tl.int64) * k_batch + (head // GROUP).to(tl.int64) * k_head
    v_at = v_ptr + b.to(tl.int64) * v_batch + (head // GROUP).to(tl.int64) * v_head
    positions = low + rows

    if FAR:
        peak, total, out = far_field(
            q, v_at, sums, features, maps, biases, head, place * batch + b, tile, window, sink_end, end,
            chunks, before, q_len, q_offset, v_row, ROWS, HEAD, BLOCK_HEAD,
        )  # fmt: skip
    else:
        peak = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        out = tl.zeros([ROWS, BLOCK_HEAD], tl.float32)
    for block in range(blocks):
        key = start_b + (block - blocks_a) * KEYS
        limit = end_b
        if block < blocks_a:
            key = first + block * KEYS
            limit = end_a
        keys = key + columns
        inside = (keys < limit)[:, None] & in_head
        offsets = keys.to(tl.int64)
        k = tl.load(k_at + offsets[:, None] * k_row + elements[None, :], mask=inside, other=0.0)
        scores = tl.dot(q, k.trans())
        last = key + KEYS - 1
        past = (low + ROWS - 1 - tl.maximum(key, sink_end) >= window) | (last - low >= window)
        hidden = (last >= limit) | holes | ((last >= sink_end) & past)
        if CAUSAL:
            hidden = hidden | (last > low)
        if hidden:
            seen = seen_pairs(positions, keys, window, sink_end, CAUSAL)
            valid_keys = keys < limit
            if HAS_VALID:
                valid_keys = tl.load(key_mask + b.to(tl.int64) * kv_len + keys, mask=valid_keys, other=0) != 0
            scores = tl.where(seen & valid_keys[None, :], scores, float("-inf"))
        new = tl.maximum(peak, tl.max(scores, 1) * scale)
        # A row that has seen nothing has the peak -inf, from which nothing can be subtracted.
        base = tl.where(new == float("-inf"), 0.0, new)
        decay = tl.exp2(peak - base)
        weights = tl.exp2(scores * scale - base[:, None])
        total = total * decay + tl.sum(weights, 1)
        v = tl.load(v_at + offsets[:, None] * v_row + elements[None, :], mask=inside, other=0.0)
        out = tl.dot(weights.to(v.dtype), v, out * decay[:, None])
        peak = new

    inverse = tl.where(total > 0.0, 1.0 / total, 0.0)
    o_at = o_ptr + b.to(tl.int64) * o_batch + head.to(tl.int64) * o_head
    o_rows = (row + rows).to(tl.int64) * o_row
    tl.store(
        o_at + o_rows[:, None] + elements[None, :],
        (out * inverse[:, None]).to(o_ptr.dtype.element_ty),
        mask=whole,
    )
