"""Which blocks of keys routed heads read (Triton), as `hcompile.routing` says: two kernels, and nothing for the host.

The first looks twice at every n-th key: for the peak and the sum of each query's weights, then for what each block of
keys has of them. Sums over the keys of a block are products with a matrix of ones, as registers of one row's scores lie
across threads. The second finds the least share that a chosen block has, bit by bit, and writes the list.
"""

from __future__ import annotations

import triton
import triton.language as tl

from hcompile.patterns import blocks

_BLOCK = tl.constexpr(blocks.LIST_BLOCK)
_QUERIES = tl.constexpr(blocks.LIST_QUERIES)
_EVERY = tl.constexpr(blocks.EVERY_KEY)
_IN_BLOCK = tl.constexpr(blocks.LIST_BLOCK // blocks.EVERY_KEY)
_WHOLE = tl.constexpr(blocks.WHOLE)
_COLUMNS = tl.constexpr(16)
_INFINITY = tl.constexpr(0x7F800000)


@triton.jit
def _limits(tile, b, valid, q_len, kv_len, q_offset, CAUSAL: tl.constexpr, HAS_VALID: tl.constexpr):
    """Return a tile's first key, whether some before its last are hidden by padding, and how many sampled keys stand
    before the end of those that some of its queries sees."""
    first = 0
    end = kv_len
    holes = False
    if HAS_VALID:
        first = tl.load(valid + 3 * b)
        end = tl.load(valid + 3 * b + 1)
        holes = tl.load(valid + 3 * b + 2) != 0
    if CAUSAL:
        end = tl.minimum(end, q_offset + tl.minimum(tile * _QUERIES + _QUERIES, q_len))
    return first, holes, (tl.maximum(end, 0) + (_EVERY - _EVERY // 2 - 1)) // _EVERY


@triton.jit
def _scores(
    q, k_at, k_row, mask_row, at, count, first, holes, low,
    CAUSAL: tl.constexpr, HAS_VALID: tl.constexpr, SAMPLES: tl.constexpr, HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr,
):  # fmt: skip
    """Return the products `[queries, SAMPLES]` with the sampled keys from `at` on, -inf where a key is not seen."""
    samples = at + tl.arange(0, SAMPLES)
    keys = samples * _EVERY + _EVERY // 2
    elements = tl.arange(0, BLOCK_HEAD)
    inside = samples < count
    k = tl.load(
        k_at + keys.to(tl.int64)[:, None] * k_row + elements[None, :],
        mask=inside[:, None] & (elements < HEAD)[None, :],
        other=0.0,
    )
    scores = tl.dot(q, k.trans(), input_precision="ieee")
    hidden = (at + SAMPLES > count) | holes | (at * _EVERY < first)
    if CAUSAL:
        hidden = hidden | ((at + SAMPLES) * _EVERY > low)
    if hidden:
        seen = inside
        if HAS_VALID:
            seen = tl.load(mask_row + keys, mask=inside, other=0) != 0
        positions = low + tl.arange(0, _QUERIES)
        if CAUSAL:
            scores = tl.where((keys[None, :] <= positions[:, None]) & seen[None, :], scores, float("-inf"))
        else:
            scores = tl.where(seen[None, :], scores, float("-inf"))
    return scores


# Sizes are not looked at: a growing cache would be compiled for anew.
@triton.jit(
    do_not_specialize=(
        "shares", "heads", "valid", "key_mask",
        "first_place", "list_heads", "q_len", "kv_len", "q_offset", "tiles", "key_blocks", "scale",
    )
)  # fmt: skip
def block_shares(
    q_ptr, k_ptr, shares, heads, valid, key_mask,
    first_place, list_heads, q_len, kv_len, q_offset, tiles, key_blocks, scale,
    q_batch, q_head, q_row, k_batch, k_head, k_row,
    GROUP: tl.constexpr, CAUSAL: tl.constexpr, HAS_VALID: tl.constexpr,
    SAMPLES: tl.constexpr, STAGES: tl.constexpr, HEAD: tl.constexpr, BLOCK_HEAD: tl.constexpr,
):  # fmt: skip
    """Write what share each block of keys has in the attention of each block of queries; one program a tile of queries.

    Args:
        q_ptr, k_ptr, valid, key_mask, q_offset: as in `hcompile.operator`.
        shares: float32 `[B, list_heads, 2 * tiles, key_blocks]`; what no query of a tile sees may stay as it is.
        heads: int32 `[R, 4]` of `heads.HeadOrder`, whose heads from `first_place` on are routed.
        scale: of the scores, times log2(e).
    """
    index = tl.program_id(0)
    slot = index % list_heads
    tile = tiles - 1 - index // list_heads % tiles
    b = index // (list_heads * tiles)
    head = tl.load(heads + 4 * (first_place + slot))
    first, holes, count = _limits(tile, b, valid, q_len, kv_len, q_offset, CAUSAL, HAS_VALID)
    low = q_offset + tile * _QUERIES
    rows = tile * _QUERIES + tl.arange(0, _QUERIES)
    elements = tl.arange(0, BLOCK_HEAD)
    q_at = q_ptr + b.to(tl.int64) * q_batch + head.to(tl.int64) * q_head
    k_at = k_ptr + b.to(tl.int64) * k_batch + (head // GROUP).to(tl.int64) * k_head
    mask_row = key_mask
    if HAS_VALID:
        mask_row = key_mask + b.to(tl.int64) * kv_len
    q = tl.load(
        q_at + rows.to(tl.int64)[:, None] * q_row + elements[None, :],
        mask=(rows < q_len)[:, None] & (elements < HEAD)[None, :],
        other=0.0,
    )
    begin = first // (_EVERY * SAMPLES) * SAMPLES
    peak = tl.full([_QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([_QUERIES], tl.float32)
    for at in tl.range(begin, count, SAMPLES, num_stages=STAGES):
        scores = _scores(
            q, k_at, k_row, mask_row, at, count, first, holes, low,
            CAUSAL, HAS_VALID, SAMPLES, HEAD, BLOCK_HEAD,
        )  # fmt: skip
        new = tl.maximum(peak, tl.max(scores, 1) * scale)
        # A row that has seen nothing has the peak -inf, from which nothing can be subtracted.
        base = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp2(peak - base) + tl.sum(tl.exp2(scores * scale - base[:, None]), 1)
        peak = new
    base = tl.where(peak == float("-inf"), 0.0, peak)
    queries = tl.minimum(q_len - rows // _BLOCK * _BLOCK, _BLOCK)
    inverse = tl.where((total > 0.0) & (rows < q_len), 1.0 / (total * queries), 0.0)

    # The largest weight of a row is 1: float16 loses 2 ** -25 of that at most.
    precision: tl.constexpr = tl.float32 if q_ptr.dtype.element_ty == tl.float32 else tl.float16
    columns = tl.arange(0, _COLUMNS)
    of_block = (tl.arange(0, SAMPLES)[:, None] // _IN_BLOCK == columns[None, :]).to(precision)
    half = tl.arange(0, 2)
    lists = (b * list_heads + slot) * tiles + tile
    to = shares + (2 * lists + half).to(tl.int64)[:, None] * key_blocks
    for at in tl.range(begin, count, SAMPLES, num_stages=STAGES):
        scores = _scores(
            q, k_at, k_row, mask_row, at, count, first, holes, low,
            CAUSAL, HAS_VALID, SAMPLES, HEAD, BLOCK_HEAD,
        )  # fmt: skip
        weights = tl.exp2(scores * scale - base[:, None])
        of_rows = tl.dot(weights.to(precision), of_block, input_precision="ieee") * inverse[:, None]
        found = tl.sum(tl.reshape(of_rows, [2, _BLOCK, _COLUMNS]), 1)
        block = at // _IN_BLOCK + columns
        there = (columns < SAMPLES // _IN_BLOCK) & (block < key_blocks)
        tl.store(to + block[None, :], found, mask=there[None, :])


@triton.jit(
    do_not_specialize=(
        "shares", "heads", "valid", "list_count", "list_index",
        "first_place", "list_heads", "q_len", "kv_len", "q_offset", "tiles", "key_blocks",
    )
)  # fmt: skip
def choose_blocks(
    shares, heads, valid, list_count, list_index,
    first_place, list_heads, q_len, kv_len, q_offset, tiles, key_blocks,
    CAUSAL: tl.constexpr, HAS_VALID: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Write the list of each tile of queries (`hcompile.lists`), with room for every block; one program a tile.

    Args:
        shares: of `block_shares`. heads: as there; a head's third number is the share that it wants, in thousandths.
        BLOCKS: a power of two, `key_blocks` at least.
    """
    index = tl.program_id(0)
    slot = index % list_heads
    tile = tiles - 1 - index // list_heads % tiles
    b = index // (list_heads * tiles)
    lists = (b * list_heads + slot) * tiles + tile
    first, holes, count = _limits(tile, b, valid, q_len, kv_len, q_offset, CAUSAL, HAS_VALID)
    half = tl.arange(0, 2)
    block = tl.arange(0, BLOCKS)
    start = tile * _QUERIES + half * _BLOCK
    last = q_offset + tl.minimum(start + _BLOCK, q_len) - 1
    estimated = (block >= first // _BLOCK) & (block * _IN_BLOCK < count)
    share = tl.load(
        shares + (2 * lists + half).to(tl.int64)[:, None] * key_blocks + block[None, :],
        mask=estimated[None, :],
        other=0.0,
    )

    # Floats that are not negative are ordered as their bits are. `least` ends as the largest share such that the blocks
    # with as much hold what is wanted.
    bits = share.to(tl.int32, bitcast=True)
    wanted = tl.sum(share, 1) * (tl.load(heads + 4 * (first_place + slot) + 2) / _WHOLE)
    least = tl.zeros([2], tl.int32)
    beyond = tl.full([2], _INFINITY, tl.int32)
    for _ in range(31):
        middle = least + (beyond - least) // 2
        enough = tl.sum(tl.where(bits >= middle[:, None], share, 0.0), 1) >= wanted
        least = tl.where(enough, middle, least)
        beyond = tl.where(enough, beyond, middle)
    more = bits > least[:, None]
    # Of blocks that have equally much the first ones, as many as are still wanted.
    tied = (bits == least[:, None]) & (least > 0)[:, None]
    each = tl.where(least > 0, least.to(tl.float32, bitcast=True), 1.0)
    missing = (wanted - tl.sum(tl.where(more, share, 0.0), 1)) / each
    chosen = more | (tied & ((tl.cumsum(tied.to(tl.int32), 1) - 1).to(tl.float32) < missing[:, None]))

    own = (block[None, :] >= (q_offset + start)[:, None] >> 6) & (block[None, :] <= last[:, None] >> 6)
    chosen = chosen | own | (block == first // _BLOCK)[None, :]
    if CAUSAL:
        chosen = chosen & (block[None, :] * _BLOCK <= last[:, None])
    chosen = chosen & (block < key_blocks)[None, :] & (start < q_len)[:, None]
    halves = tl.sum(tl.where(chosen, 1 + half[:, None], 0), 0)
    listed = (halves != 0).to(tl.int32)
    place = tl.cumsum(listed, 0) - 1
    tl.store(list_index + lists.to(tl.int64) * key_blocks + place, 4 * block + halves, mask=halves != 0)
    tl.store(list_count + lists, tl.sum(listed, 0))
