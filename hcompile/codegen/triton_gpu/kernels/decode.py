"""The decode kernel: a few queries a sequence over a long cache, the keys split among programs (Triton).

A program takes one KV head of one sequence and one share of its keys. The query heads of the group, times the queries,
are the rows of one tile, so that each key is read once for all of them; each row has its own window and sinks. The
programs leave their partial sums in a workspace, and the last one to arrive merges them (Flash-Decoding, with the
reduction in the same launch: a launch costs as much as a window of a thousand keys).

Keys stand in one cache `[B, Hkv, S, D]`, or in pages `[pages, Hkv, PAGE, D]` that a table `[B, pages]` names.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from hcompile.codegen.triton_gpu.kernels.visible import seen_pairs, visited


@triton.jit
def _rows_of_keys(base, keys, table, batch_stride, row_stride, PAGE: tl.constexpr):
    """Return pointers to the first elements of cache rows; with pages, `base` is page 0 and `batch_stride` a page."""
    if PAGE:
        page = tl.load(table + keys // PAGE).to(tl.int64)
        return base + page * batch_stride + (keys % PAGE).to(tl.int64) * row_stride
    else:
        return base + keys.to(tl.int64) * row_stride


@triton.jit
def _block(
    q, k_base, v_base, table, mask_row, key, end, positions, windows, sink_ends, peak, total, out, scale,
    k_page_stride, k_row_stride, v_page_stride, v_row_stride,
    CAUSAL: tl.constexpr, HAS_VALID: tl.constexpr, PAGE: tl.constexpr,
    KEYS: tl.constexpr, HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr,
):  # fmt: skip
    """Add one block of keys to the online softmax of all rows."""
    keys = key + tl.arange(0, KEYS)
    elements = tl.arange(0, BLOCK_HEAD)
    inside = (keys < end)[:, None]
    if HEAD < BLOCK_HEAD:
        inside = inside & (elements < HEAD)[None, :]
    safe = tl.minimum(keys, end - 1)
    k_rows = _rows_of_keys(k_base, safe, table, k_page_stride, k_row_stride, PAGE)
    v_rows = _rows_of_keys(v_base, safe, table, v_page_stride, v_row_stride, PAGE)
    k = tl.load(k_rows[:, None] + elements[None, :], mask=inside, other=0.0)
    v = tl.load(v_rows[:, None] + elements[None, :], mask=inside, other=0.0)
    scores = tl.dot(q, k.trans()) * scale
    seen = seen_pairs(positions, keys, windows[:, None], sink_ends[:, None], CAUSAL)
    valid = keys < end
    if HAS_VALID:
        valid = tl.load(mask_row + keys, mask=valid, other=0) != 0
    seen = seen & valid[None, :]
    scores = tl.where(seen, scores, float("-inf"))
    new = tl.maximum(peak, tl.max(scores, 1))
    base = tl.where(new == float("-inf"), 0.0, new)
    decay = tl.exp2(peak - base)
    weights = tl.exp2(scores - base[:, None])
    out = tl.dot(weights.to(v.dtype), v, out * decay[:, None])
    return new, total * decay + tl.sum(weights, 1), out


# Sizes are not looked at: a growing cache would be compiled for anew. Strides and the pointers to rows are, for wide
# loads; the other pointers are read element by element.
@triton.jit(
    do_not_specialize=(
        "head_params", "valid", "key_mask", "table", "arrived",
        "kv_heads", "q_len", "kv_len", "q_offset", "splits", "table_row", "scale",
    )
)  # fmt: skip
def decode(
    q_ptr, k_ptr, v_ptr, o_ptr, partial, head_params, valid, key_mask, table, arrived,
    kv_heads, q_len, kv_len, q_offset, splits, table_row, scale,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, o_batch, o_head, o_row,
    GROUP: tl.constexpr, ROWS: tl.constexpr, CAUSAL: tl.constexpr, HAS_VALID: tl.constexpr, PAGE: tl.constexpr,
    EARLY: tl.constexpr, SPLITS: tl.constexpr, KEYS: tl.constexpr, HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr,
):  # fmt: skip
    """Write O `[B, Hq, Sq, D]`. Row r of a tile is query r // GROUP of the group's head r % GROUP."""
    split = tl.program_id(0)
    pair = tl.program_id(1)
    b = pair // kv_heads
    kv_head = pair % kv_heads
    rows = tl.arange(0, ROWS)
    elements = tl.arange(0, BLOCK_HEAD)
    heads = kv_head * GROUP + rows % GROUP
    queries = rows // GROUP
    real = queries < q_len
    whole = real[:, None] & (elements < HEAD)[None, :]
    q_rows = b.to(tl.int64) * q_batch + heads.to(tl.int64) * q_head + queries.to(tl.int64) * q_row
    windows = tl.minimum(tl.load(head_params + 2 * heads), 1 << 30)
    sinks = tl.minimum(tl.load(head_params + 2 * heads + 1), 1 << 30)
    # The widest of the group, head by head: a reduction would wait for all warps.
    window = 1
    most_sinks = 0
    for head in tl.static_range(GROUP):
        own = head_params + 2 * (kv_head * GROUP + head)
        window = tl.maximum(window, tl.minimum(tl.load(own), 1 << 30))
        most_sinks = tl.maximum(most_sinks, tl.minimum(tl.load(own + 1), 1 << 30))
    if EARLY:
        # Up to here only `head_params` were read, which no kernel just before this one may write.
        gdc_wait()
        gdc_launch_dependents()
    q = tl.load(q_ptr + q_rows[:, None] + elements[None, :], mask=whole, other=0.0)

    first = 0
    end = kv_len
    if HAS_VALID:
        first = tl.load(valid + 3 * b)
        end = tl.load(valid + 3 * b + 1)
    positions = q_offset + tl.minimum(queries, q_len - 1)
    sink_ends = first + sinks
    # The ranges that some row sees: the keys of sinks, and those of windows.
    if CAUSAL:
        end = tl.minimum(end, q_offset + q_len)
    end_a, start_b, end_b, blocks_a, blocks = visited(
        first, end, q_offset, q_offset + q_len - 1, window, most_sinks, KEYS
    )
    share = (blocks + splits - 1) // splits
    begin = split * share
    stop = tl.minimum(begin + share, blocks)

    k_base = k_ptr + kv_head.to(tl.int64) * k_head
    v_base = v_ptr + kv_head.to(tl.int64) * v_head
    pages = table
    if PAGE:
        pages = table + b.to(tl.int64) * table_row
    else:
        k_base += b.to(tl.int64) * k_batch
        v_base += b.to(tl.int64) * v_batch
    mask_row = key_mask
    if HAS_VALID:
        mask_row = key_mask + b.to(tl.int64) * kv_len
    peak = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    out = tl.zeros([ROWS, BLOCK_HEAD], tl.float32)
    for block in range(begin, stop):
        key = start_b + (block - blocks_a) * KEYS
        limit = end_b
        if block < blocks_a:
            key = first + block * KEYS
            limit = end_a
        peak, total, out = _block(
            q, k_base, v_base, pages, mask_row, key, limit, positions, windows, sink_ends, peak, total, out, scale,
            k_batch, k_row, v_batch, v_row, CAUSAL, HAS_VALID, PAGE, KEYS, HEAD, BLOCK_HEAD,
        )  # fmt: skip

    o_rows = b.to(tl.int64) * o_batch + heads.to(tl.int64) * o_head + queries.to(tl.int64) * o_row
    o_at = o_ptr + o_rows[:, None] + elements[None, :]
    # Only as many programs as there are shares with keys take part.
    parts = tl.maximum((blocks + share - 1) // tl.maximum(share, 1), 1)
    if parts == 1:
        if split == 0:
            inverse = tl.where(total > 0.0, 1.0 / total, 0.0)
            tl.store(o_at, (out * inverse[:, None]).to(o_ptr.dtype.element_ty), mask=whole)
    elif split < parts:
        slot = pair * splits
        # The sums stand behind all parts of the output.
        partial_sums = partial + tl.num_programs(1).to(tl.int64) * splits * ROWS * BLOCK_HEAD
        own_sums = partial_sums + (slot + split).to(tl.int64) * 2 * ROWS
        tl.store(own_sums + rows, peak)
        tl.store(own_sums + ROWS + rows, total)
        own_out = partial + (slot + split).to(tl.int64) * ROWS * BLOCK_HEAD
        tl.store(own_out + rows[:, None] * BLOCK_HEAD + elements[None, :], out, mask=whole)
        tl.debug_barrier()
        before = tl.atomic_add(arrived + pair, 1, sem="acq_rel", scope="gpu")
        if before == parts - 1:
            tl.debug_barrier()
            # Other programs wrote these: not through this multiprocessor's first-level cache.
            slots = tl.arange(0, SPLITS)
            sums = partial_sums + slot.to(tl.int64) * 2 * ROWS
            all_sums = sums + slots[:, None] * 2 * ROWS + rows[None, :]
            there = (slots < parts)[:, None]
            peaks = tl.load(all_sums, mask=there, other=float("-inf"), cache_modifier=".cg")
            totals = tl.load(all_sums + ROWS, mask=there, other=0.0, cache_modifier=".cg")
            peak = tl.max(peaks, 0)
            base = tl.where(peak == float("-inf"), 0.0, peak)
            total = tl.sum(totals * tl.exp2(peaks - base[None, :]), 0)
            out = tl.zeros([ROWS, BLOCK_HEAD], tl.float32)
            for part in tl.range(0, parts, loop_unroll_factor=4):
                worth = tl.exp2(tl.load(sums + part * 2 * ROWS + rows, cache_modifier=".cg") - base)
                part_out = partial + (slot + part).to(tl.int64) * ROWS * BLOCK_HEAD
                part_rows = part_out + rows[:, None] * BLOCK_HEAD + elements[None, :]
                out += worth[:, None] * tl.load(part_rows, mask=whole, other=0.0, cache_modifier=".cg")
            inverse = tl.where(total > 0.0, 1.0 / total, 0.0)
            tl.store(o_at, (out * inverse[:, None]).to(o_ptr.dtype.element_ty), mask=whole)
            # Left as it was found, for the next call.
            tl.atomic_xchg(arrived + pair, 0)
