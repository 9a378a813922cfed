"""What linear far fields add to attention (Triton): sums over earlier keys, and the state that a softmax starts with.

Far from a query at position p are the keys before p - window + 1. So the keys of a head are cut into chunks at `first`,
the place that is this for the first query, and at every `CHUNK`-th place before and after it. The first kernel writes
the features of all these keys and their sums over a chunk, the second adds up the sums. To a tile of queries each
feature is then a key more, whose value is the mean of the values of the chunks that are far from all its rows; the keys
that follow, up to those that are far from its last row alone, are multiplied out. Its online softmax
(`kernels.prefill`) begins with the mean of the far values and the logarithm of their weight.

Maps are given as the sum of two of the dtype of queries, since their products are raised to powers. Features of pairs
are multiplied as bfloat16 where queries are; float16 has not their range, and float32 is kept there. Weights take the
dtype of the values as those of near keys do, divided by their sum for the same reason.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hcompile.patterns.linear import FEATURES

CHUNK = 128
_CHUNK = tl.constexpr(CHUNK)
_FEATURES = tl.constexpr(FEATURES)
_QUERY = tl.constexpr(0)
_KEY = tl.constexpr(1)
_TINY = tl.constexpr(1.1754943508222875e-38)
"""The least float32 that is divided by."""
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _logits(x, maps, biases, head, place: tl.constexpr, HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr):
    """Return A x + b `[rows, FEATURES]` of queries or keys `[rows, BLOCK_HEAD]`, by a head's map for them."""
    features = tl.arange(0, _FEATURES)
    both = tl.arange(0, 2 * _FEATURES)
    elements = tl.arange(0, BLOCK_HEAD)
    at = (head * 2 + place) * _FEATURES
    weights = tl.load(
        maps + ((2 * at + both) * HEAD)[None, :] + elements[:, None],
        mask=(elements < HEAD)[:, None],
        other=0.0,
    )
    logits = tl.dot(x, weights, input_precision="ieee")
    logits = tl.sum(logits.reshape(x.shape[0], 2, _FEATURES), 1)
    return logits + tl.load(biases + at + features)[None, :]


@triton.jit
def _of_pairs(psi, phi):
    """Return the weights `[rows, keys]` of pairs, from the features of queries `[rows, FEATURES]`, float32, and of keys
    `[FEATURES, keys]`."""
    if phi.dtype == tl.bfloat16:
        return tl.dot(psi.to(tl.bfloat16), phi)
    else:
        return tl.dot(psi, phi, input_precision="tf32x3")


@triton.jit
def _rows_of(at, keys, row_stride, there, HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr):
    """Load the rows of keys or values `[keys, BLOCK_HEAD]`, zeros where one is not there."""
    elements = tl.arange(0, BLOCK_HEAD)
    return tl.load(
        at + keys.to(tl.int64)[:, None] * row_stride + elements[None, :],
        mask=there[:, None] & (elements < HEAD)[None, :],
        other=0.0,
    )


# Sizes are not looked at: a growing cache would be compiled for anew. Strides and the pointers to rows are, for wide
# loads; the other pointers are read element by element.
@triton.jit(
    do_not_specialize=(
        "biases", "heads", "valid", "key_mask", "batch", "chunks", "before", "kv_len", "q_offset",
    )
)  # fmt: skip
def chunk_sums(
    k_ptr, v_ptr, sums, features, maps, biases, heads, valid, key_mask,
    batch, chunks, before, kv_len, q_offset, k_batch, k_head, k_row, v_batch, v_head, v_row,
    GROUP: tl.constexpr, HAS_VALID: tl.constexpr,
    KEYS: tl.constexpr, HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr,
):  # fmt: skip
    """Write the features of a chunk's keys, zeros for sinks and those that are not there, and their sums: over the
    keys, of features, and of features times values.

    Args:
        sums: float32 `[R, B, chunks, FEATURES * (HEAD + 1)]`, a chunk as `[FEATURES, HEAD]` and then `[FEATURES]`.
        features: `[R, B, chunks * CHUNK, FEATURES]`.
        maps: `[Hq, 2, 2, FEATURES, HEAD]`, of queries and of keys, each as the sum of two.
        biases: float32 `[Hq, 2, FEATURES]`.
        heads: int32 `[R, 4]`, as in `kernels.prefill`. valid, key_mask: as there.
        before: how many of the chunks end at `first` or earlier.
    """
    index = tl.program_id(0)
    chunk = index % chunks
    b = index // chunks % batch
    at = heads + 4 * (index // chunks // batch)
    head = tl.load(at)
    begin = tl.minimum(tl.load(at + 2), 1 << 30)
    end = kv_len
    if HAS_VALID:
        begin += tl.load(valid + 3 * b)
        end = tl.load(valid + 3 * b + 1)
    first = q_offset - tl.minimum(tl.load(at + 1), 1 << 30) + 1 + (chunk - before) * _CHUNK
    kv_head = (head // GROUP).to(tl.int64)
    k_at = k_ptr + b.to(tl.int64) * k_batch + kv_head * k_head
    v_at = v_ptr + b.to(tl.int64) * v_batch + kv_head * v_head
    columns = tl.arange(0, _FEATURES)
    weights = tl.zeros([_FEATURES], tl.float32)
    values = tl.zeros([_FEATURES, BLOCK_HEAD], tl.float32)
    for part in tl.static_range(0, _CHUNK, KEYS):
        keys = first + part + tl.arange(0, KEYS)
        there = (keys >= begin) & (keys < end)
        if HAS_VALID:
            there = tl.load(key_mask + b.to(tl.int64) * kv_len + keys, mask=there, other=0) != 0
        k = _rows_of(k_at, keys, k_row, there, HEAD, BLOCK_HEAD)
        v = _rows_of(v_at, keys, v_row, there, HEAD, BLOCK_HEAD)
        logits = _logits(k, maps, biases, head, _KEY, HEAD, BLOCK_HEAD)
        phi = tl.exp(logits - tl.max(logits, 1)[:, None])
        phi = tl.where(there[:, None], phi * (1.0 / tl.sum(phi, 1))[:, None], 0.0)
        rows = index.to(tl.int64) * _CHUNK + part + tl.arange(0, KEYS)
        tl.store(features + rows[:, None] * _FEATURES + columns[None, :], phi.to(features.dtype.element_ty))
        part_weights = tl.sum(phi, 0)
        shares = phi * (1.0 / tl.maximum(part_weights, _TINY))[None, :]
        upper = shares.to(v.dtype)
        lower = (shares - upper.to(tl.float32)).to(v.dtype)
        # With the values as the first factor, Triton 3.6 makes wrong code of this for four warps on Hopper.
        means = tl.dot(lower.trans(), v, input_precision="ieee")
        means = tl.dot(upper.trans(), v, means, input_precision="ieee")
        values += means * part_weights[:, None]
        weights += part_weights
    elements = tl.arange(0, BLOCK_HEAD)
    sums_at = sums + index.to(tl.int64) * (_FEATURES * (HEAD + 1))
    tl.store(sums_at + columns[:, None] * HEAD + elements[None, :], values, mask=(elements < HEAD)[None, :])
    tl.store(sums_at + _FEATURES * HEAD + columns, weights)


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


@triton.jit
def far_field(
    q, v_at, sums, features, maps, biases, head, pair, tile, window, begin, end,
    chunks, before, q_len, q_offset, v_row,
    ROWS: tl.constexpr, HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr,
):  # fmt: skip
    """Return what an online softmax of a tile starts with: the logarithms (to base 2) `[ROWS]` of the weights of what
    is far, the sums of weights relative to them, 1 or 0, and the means of the far values `[ROWS, BLOCK_HEAD]`.

    Args:
        sums: of `chunk_sums`, added up. pair: which head and batch row of them it is.
        begin, end: of the keys that may be far.
    """
    logits = _logits(q, maps, biases, head, _QUERY, HEAD, BLOCK_HEAD)
    largest = tl.max(logits, 1)
    psi = tl.exp(logits - largest[:, None])

    whole = tile * ROWS // _CHUNK
    last = before + whole - 1
    columns = tl.arange(0, _FEATURES)
    elements = tl.arange(0, BLOCK_HEAD)
    # Before the first tile there may be no chunk, and where all keys lie in the windows there is none at all.
    chunk = tl.full([_FEATURES], last, tl.int32)
    there = (chunk >= 0) & (chunk < chunks)
    sums_at = sums + (pair * chunks + last).to(tl.int64) * (_FEATURES * (HEAD + 1))
    sum_features = tl.load(sums_at + _FEATURES * HEAD + columns, mask=there, other=0.0)
    sum_values = tl.load(
        sums_at + columns[:, None] * HEAD + elements[None, :],
        mask=there[:, None] & (elements < HEAD)[None, :],
        other=0.0,
    )
    means = (sum_values * (1.0 / tl.maximum(sum_features, _TINY))[:, None]).to(q.dtype)
    weights = psi * sum_features[None, :]
    weight = tl.sum(weights, 1)
    shares = (weights * (1.0 / tl.maximum(weight, _TINY))[:, None]).to(q.dtype)
    out = tl.dot(shares, means, input_precision="ieee") * weight[:, None]

    first = q_offset - window + 1
    far_end = first + tile * ROWS + tl.arange(0, ROWS)
    start = first + whole * _CHUNK
    stop = tl.minimum(first + tl.minimum((tile + 1) * ROWS, q_len) - 1, end)
    if stop <= begin:
        stop = start
    features_at = features + (pair * chunks + last + 1).to(tl.int64) * (_CHUNK * _FEATURES)
    for key in range(start, stop, ROWS):
        place = key - start + tl.arange(0, ROWS)
        keys = start + place
        phi = tl.load(features_at + place[None, :] * _FEATURES + columns[:, None])
        pairs = _of_pairs(psi, phi)
        pairs = tl.where(keys[None, :] < far_end[:, None], pairs, 0.0)
        pairs_weight = tl.sum(pairs, 1)
        v = _rows_of(v_at, keys, v_row, (keys >= begin) & (keys < end), HEAD, BLOCK_HEAD)
        pairs = (pairs * (1.0 / tl.maximum(pairs_weight, _TINY))[:, None]).to(q.dtype)
        out += tl.dot(pairs, v, input_precision="ieee") * pairs_weight[:, None]
        weight += pairs_weight
    some = weight > 0.0
    there_weight = tl.maximum(weight, _TINY)
    peak = tl.where(some, largest * _LOG2_E + tl.log2(there_weight), float("-inf"))
    return peak, tl.where(some, 1.0, 0.0), out * (1.0 / there_weight)[:, None]
