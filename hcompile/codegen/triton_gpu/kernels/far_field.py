"""What linear far fields add to attention (Triton): three kernels behind a prefill kernel that wrote the near fields.

Far from a query at position p are the keys before p - window + 1. So the keys of a head are cut into chunks at `first`,
the place that is this for the first query, and at every `CHUNK`-th place before and after it: of a tile of as many
queries, the keys of all chunks before are far from every one, and of the chunk that ends with the tile, row r is far
from the first r. The first kernel sums up the features of a chunk's keys, the second adds up the sums, and the third
reads them, multiplies the rest out pair by pair, and merges both with what stands in the output.

Features are float32. Where tensor cores multiply them, float32 factors are split in two of 16 bits each, but for the
weights of pairs, which are rounded as those of near keys are. Before weights take the dtype of the values they are
divided by their sum: float16 could not hold them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hcompile.patterns.linear import FEATURES

CHUNK = 128
_FEATURES = tl.constexpr(FEATURES)
_QUERY = tl.constexpr(0)
_KEY = tl.constexpr(1)
_TINY = tl.constexpr(1.1754943508222875e-38)
"""The least float32 that is divided by."""


@triton.jit
def _rows(at, rows, row_stride, there, part, HEAD: tl.constexpr, PART: tl.constexpr):
    """Load the elements of rows from `part` on, `[rows, PART]`, zeros where a row is not there."""
    elements = part + tl.arange(0, PART)
    return tl.load(
        at + rows.to(tl.int64)[:, None] * row_stride + elements[None, :],
        mask=there[:, None] & (elements < HEAD)[None, :],
        other=0.0,
    )


@triton.jit
def _logits(
    at, rows, row_stride, there, maps, head, place: tl.constexpr,
    HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Return A x + b `[rows, FEATURES]` of queries or keys, by a head's map for them."""
    features = tl.arange(0, _FEATURES)
    map_at = maps + (head * 2 + place) * _FEATURES * (HEAD + 1) + features * (HEAD + 1)
    logits = tl.zeros([rows.shape[0], _FEATURES], tl.float32)
    for part in range(0, BLOCK_HEAD, PART):
        elements = part + tl.arange(0, PART)
        x = _rows(at, rows, row_stride, there, part, HEAD, PART)
        weights = tl.load(
            map_at[:, None] + elements[None, :], mask=(elements < HEAD)[None, :], other=0.0
        ).trans()
        if x.dtype == tl.float32:
            logits = tl.dot(x, weights, logits, input_precision="ieee")
        else:
            upper = weights.to(x.dtype)
            lower = (weights - upper.to(tl.float32)).to(x.dtype)
            logits = tl.dot(x, upper, tl.dot(x, lower, logits))
    return logits + tl.load(map_at + HEAD)[None, :]


@triton.jit
def _product(a, b, SPLIT: tl.constexpr):
    """Return the product of float32 matrices, to 16 bits with SPLIT; bfloat16 has their range."""
    if SPLIT:
        a_upper = a.to(tl.bfloat16)
        b_upper = b.to(tl.bfloat16)
        a_lower = (a - a_upper.to(tl.float32)).to(tl.bfloat16)
        b_lower = (b - b_upper.to(tl.float32)).to(tl.bfloat16)
        return tl.dot(a_upper, b_upper, tl.dot(a_upper, b_lower, tl.dot(a_lower, b_upper)))
    else:
        return tl.dot(a, b, input_precision="ieee")


@triton.jit
def _limits(b, valid, kv_len, sinks, HAS_VALID: tl.constexpr):
    """Return the first key that may be far in a batch row, and the end of those."""
    begin = sinks
    end = kv_len
    if HAS_VALID:
        begin = tl.load(valid + 3 * b) + sinks
        end = tl.load(valid + 3 * b + 1)
    return begin, end


@triton.jit
def _far(keys, b, begin, end, key_mask, kv_len, HAS_VALID: tl.constexpr):
    """Return which keys may be far."""
    there = (keys >= begin) & (keys < end)
    if HAS_VALID:
        there = tl.load(key_mask + b.to(tl.int64) * kv_len + keys, mask=there, other=0) != 0
    return there


@triton.jit
def _shared_out(
    at, keys, row_stride, there, maps, head, HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr, PART: tl.constexpr
):
    """Return the features `[keys, FEATURES]` of keys, zeros where a key is not there."""
    logits = _logits(at, keys, row_stride, there, maps, head, _KEY, HEAD, BLOCK_HEAD, PART)
    shares = tl.exp(logits - tl.max(logits, 1)[:, None])
    shares = shares * (1.0 / tl.sum(shares, 1))[:, None]
    return tl.where(there[:, None], shares, 0.0)


# Sizes are not looked at: a growing cache would be compiled for anew. Strides and the pointers to rows are, for wide
# loads; the other pointers are read element by element.
@triton.jit(
    do_not_specialize=(
        "maps", "heads", "valid", "key_mask", "batch", "chunks", "before", "kv_len", "q_offset",
    )
)  # fmt: skip
def chunk_sums(
    k_ptr, v_ptr, sums, maps, heads, valid, key_mask,
    batch, chunks, before, kv_len, q_offset, k_batch, k_head, k_row, v_batch, v_head, v_row,
    GROUP: tl.constexpr, HAS_VALID: tl.constexpr,
    CHUNK: tl.constexpr, HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Write the sums of a chunk: over its keys that may be far, of their features, and of these times the values.

    Args:
        sums: float32 `[R, B, chunks, FEATURES * (HEAD + 1)]`, a chunk as `[FEATURES, HEAD]` and then `[FEATURES]`.
        maps: float32 `[Hq, 2, FEATURES, HEAD + 1]`. heads: int32 `[R, 3]`, head, window, sinks.
        valid, key_mask: as in `kernels.prefill`.
        before: how many of the chunks end at `first` or earlier.
    """
    index = tl.program_id(0)
    chunk = index % chunks
    b = index // chunks % batch
    at = heads + 3 * (index // chunks // batch)
    head = tl.load(at)
    begin, end = _limits(b, valid, kv_len, tl.load(at + 2), HAS_VALID)
    key = q_offset - tl.load(at + 1) + 1 + (chunk - before) * CHUNK
    keys = key + tl.arange(0, CHUNK)
    there = _far(keys, b, begin, end, key_mask, kv_len, HAS_VALID)
    kv_head = (head // GROUP).to(tl.int64)
    k_at = k_ptr + b.to(tl.int64) * k_batch + kv_head * k_head
    v_at = v_ptr + b.to(tl.int64) * v_batch + kv_head * v_head
    features = _shared_out(k_at, keys, k_row, there, maps, head, HEAD, BLOCK_HEAD, PART)
    weights = tl.sum(features, 0)
    shares = features * (1.0 / tl.maximum(weights, _TINY))[None, :]
    upper = shares.to(v_ptr.dtype.element_ty)
    lower = (shares - upper.to(tl.float32)).to(v_ptr.dtype.element_ty)
    rows = tl.arange(0, _FEATURES)
    sums_at = sums + index.to(tl.int64) * (_FEATURES * (HEAD + 1))
    for part in range(0, BLOCK_HEAD, PART):
        v = _rows(v_at, keys, v_row, there, part, HEAD, PART)
        # With the values as the first factor, Triton 3.6 makes wrong code of this for four warps on Hopper.
        means = tl.dot(lower.trans(), v, input_precision="ieee")
        means = tl.dot(upper.trans(), v, means, input_precision="ieee")
        elements = part + tl.arange(0, PART)
        tl.store(
            sums_at + rows[:, None] * HEAD + elements[None, :],
            means * weights[:, None],
            mask=(elements < HEAD)[None, :],
        )
    tl.store(sums_at + _FEATURES * HEAD + rows, weights)


@triton.jit(do_not_specialize=("chunks",))
def add_up(sums, chunks, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, BLOCK: tl.constexpr):
    """Add to the sums of every chunk those of all before it; one program for `COLUMNS` of a head's `WIDTH`."""
    index = tl.program_id(0)
    parts: tl.constexpr = WIDTH // COLUMNS
    columns = index % parts * COLUMNS + tl.arange(0, COLUMNS)
    sums_at = sums + (index // parts).to(tl.int64) * chunks * WIDTH + columns[None, :]
    so_far = tl.zeros([COLUMNS], tl.float32)
    for start in range(0, chunks, BLOCK):
        rows = start + tl.arange(0, BLOCK)[:, None]
        block = tl.load(sums_at + rows.to(tl.int64) * WIDTH, mask=rows < chunks, other=0.0)
        tl.store(
            sums_at + rows.to(tl.int64) * WIDTH, tl.cumsum(block, 0) + so_far[None, :], mask=rows < chunks
        )
        so_far += tl.sum(block, 0)


@triton.jit(
    do_not_specialize=(
        "log_sums", "maps", "heads", "valid", "key_mask",
        "batch", "q_heads", "chunks", "before", "q_len", "kv_len", "q_offset", "tiles",
    )
)  # fmt: skip
def merge_far(
    q_ptr, k_ptr, v_ptr, o_ptr, sums, log_sums, maps, heads, valid, key_mask,
    batch, q_heads, chunks, before, q_len, kv_len, q_offset, tiles,
    q_batch, q_head, q_row, k_batch, k_head, k_row, v_batch, v_head, v_row, o_batch, o_head, o_row,
    GROUP: tl.constexpr, HAS_VALID: tl.constexpr, SPLIT: tl.constexpr,
    CHUNK: tl.constexpr, HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr, PART: tl.constexpr,
):  # fmt: skip
    """Make of O, which holds the means of near values, the means of near and far ones; one program a tile of a head.

    Args:
        sums: of `chunk_sums`, added up. log_sums: float32 `[B, Hq, Sq]`, the logarithms of the near weights' sums.
        Others: as of `chunk_sums`.
    """
    index = tl.program_id(0)
    tile = index % tiles
    b = index // tiles % batch
    place = index // tiles // batch
    head = tl.load(heads + 3 * place)
    begin, end = _limits(b, valid, kv_len, tl.load(heads + 3 * place + 2), HAS_VALID)
    key = q_offset - tl.load(heads + 3 * place + 1) + 1 + tile * CHUNK
    if tl.minimum(key + tl.minimum(CHUNK, q_len - tile * CHUNK) - 1, end) <= begin:
        return

    rows = tl.arange(0, CHUNK)
    columns = tl.arange(0, CHUNK)
    row = tile * CHUNK + rows
    keys = key + columns
    inside = row < q_len
    there = _far(keys, b, begin, end, key_mask, kv_len, HAS_VALID)
    kv_head = (head // GROUP).to(tl.int64)
    q_at = q_ptr + b.to(tl.int64) * q_batch + head.to(tl.int64) * q_head
    k_at = k_ptr + b.to(tl.int64) * k_batch + kv_head * k_head
    v_at = v_ptr + b.to(tl.int64) * v_batch + kv_head * v_head
    o_at = o_ptr + b.to(tl.int64) * o_batch + head.to(tl.int64) * o_head
    last = before + tile - 1
    features_at = tl.arange(0, _FEATURES)
    summed = tl.full([_FEATURES], last, tl.int32) >= 0  # Before the first tile there may be no chunk.
    sums_at = sums + ((place * batch + b).to(tl.int64) * chunks + last) * (_FEATURES * (HEAD + 1))

    logits = _logits(q_at, row, q_row, inside, maps, head, _QUERY, HEAD, BLOCK_HEAD, PART)
    largest = tl.max(logits, 1)
    psi = tl.exp(logits - largest[:, None])
    features = _shared_out(k_at, keys, k_row, there, maps, head, HEAD, BLOCK_HEAD, PART)
    edge = _product(psi, features.trans(), SPLIT)
    edge = tl.where(columns[None, :] < rows[:, None], edge, 0.0)
    edge_weight = tl.sum(edge, 1)
    edge = (edge * (1.0 / tl.maximum(edge_weight, _TINY))[:, None]).to(v_ptr.dtype.element_ty)
    sum_features = tl.load(sums_at + _FEATURES * HEAD + features_at, mask=summed, other=0.0)
    weight = edge_weight + tl.sum(psi * sum_features[None, :], 1)

    near_log = tl.load(
        log_sums + (b * q_heads + head).to(tl.int64) * q_len + row, mask=inside, other=float("-inf")
    )
    there_weight = tl.maximum(weight, _TINY)
    far_log = tl.where(weight > 0.0, largest + tl.log(there_weight), float("-inf"))
    top = tl.maximum(near_log, far_log)
    # Of a row that sees nothing it is -inf, from which nothing can be subtracted.
    top = tl.where(top == float("-inf"), 0.0, top)
    near_share = tl.exp(near_log - top)
    far_share = tl.exp(far_log - top)
    total = near_share + far_share
    inverse = tl.where(total > 0.0, 1.0 / total, 0.0)
    near_share = near_share * inverse
    far_share = far_share * inverse / there_weight
    for part in range(0, BLOCK_HEAD, PART):
        elements = part + tl.arange(0, PART)
        v = _rows(v_at, keys, v_row, there, part, HEAD, PART)
        far = tl.dot(edge, v, input_precision="ieee") * edge_weight[:, None]
        sum_values = tl.load(
            sums_at + features_at[:, None] * HEAD + elements[None, :],
            mask=summed[:, None] & (elements < HEAD)[None, :],
            other=0.0,
        )
        far += _product(psi, sum_values, SPLIT)
        near = _rows(o_at, row, o_row, inside, part, HEAD, PART).to(tl.float32)
        tl.store(
            o_at + row.to(tl.int64)[:, None] * o_row + elements[None, :],
            (near * near_share[:, None] + far * far_share[:, None]).to(o_ptr.dtype.element_ty),
            mask=inside[:, None] & (elements < HEAD)[None, :],
        )
