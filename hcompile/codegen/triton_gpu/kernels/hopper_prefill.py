"""The prefill kernel for Hopper: persistent, with one warp that loads and two warpgroups that multiply (Gluon).

A task is one query tile of one head. The loading warp takes tasks off a counter, ahead of the others, and keeps rings
of K and V blocks full. Each of two warpgroups owns half of the tile's rows. While its tensor cores multiply P V of one
block, it takes the softmax of the next one; with TURNS the warpgroups issue their products one after the other, so that
one's softmax stands beside the other's products (the schedule of FlashAttention-3, arXiv:2407.08608).

What a head sees is computed from (window, sinks) and the position alone, as two ranges of keys that start at any key,
or read from a list of key blocks. A block is masked only where some pair of it is hidden.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from hcompile.codegen.triton_gpu.kernels.hopper_softmax import hide, softmax
from hcompile.codegen.triton_gpu.kernels.hopper_tasks import block_of, list_of, place_of, ranges_of

# Triton 3.6 has the older names, 3.9 only the newer ones.
_load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
_store = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global

REGISTERS = 168
"""Registers of a thread before warpgroups trade them: 65536 for three warpgroups of 128 threads, in steps of 8."""
LOADER_REGISTERS = gl.constexpr(24)
CONSUMER_REGISTERS = gl.constexpr(240)
UNBOUNDED = gl.constexpr(1 << 30)


@gluon.jit
def _load_blocks(
    descriptors, rings, barriers, pointers, sizes,
    GROUP: gl.constexpr, CAUSAL: gl.constexpr, HAS_VALID: gl.constexpr, LISTS: gl.constexpr,
    ROWS: gl.constexpr, KEYS: gl.constexpr, STAGES: gl.constexpr,
):  # fmt: skip
    q_desc, k_desc, v_desc, o_desc = descriptors
    q_ring, k_ring, v_ring, o_ring, task_ring = rings
    q_full, q_empty, k_full, k_empty, v_full, v_empty, task_full, task_empty, turns = barriers
    heads, valid, key_mask, list_count, list_index, list_heads, room, counters = pointers
    batch, long_heads, long_section, short_heads, short_section, q_len, kv_len, q_offset, tiles, tasks = sizes
    one: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    programs = gl.num_programs(0)
    done = 0
    turn = 0
    index = gl.program_id(0)
    while index < tasks:
        following = gl.atomic_add(counters, 1) + programs
        mbarrier.wait(task_empty.index(turn % 2), ((turn // 2) & 1) ^ 1)
        task_ring.index(turn % 2).store(gl.full([1], following, gl.int32, one))
        mbarrier.arrive(task_full.index(turn % 2), count=1)

        tile, b, place = place_of(index, batch, long_heads, long_section, short_heads, short_section, tiles)
        head = gl.load(heads + 4 * place)
        window = gl.minimum(gl.load(heads + 4 * place + 1), UNBOUNDED)
        sinks = gl.minimum(gl.load(heads + 4 * place + 2), UNBOUNDED)
        low, sink_end, first, end_a, start_b, end_b, blocks_a, blocks = ranges_of(
            tile, b, window, sinks, valid, q_len, kv_len, q_offset, CAUSAL, HAS_VALID, ROWS, KEYS
        )
        listed = False
        entries = list_index
        count = 0
        if LISTS:
            listed = window == 0
            if listed:
                at = (b * list_heads + gl.load(heads + 4 * place + 3)) * tiles + tile
                entries, count, blocks = list_of(at, room, list_count, list_index)
        for w in gl.static_range(2):
            mbarrier.wait(q_empty.index(w), (turn & 1) ^ 1)
            mbarrier.expect(q_full.index(w), q_desc.block_type.nbytes)
            _load(q_desc, [b, head, tile * ROWS + w * (ROWS // 2), 0], q_full.index(w), q_ring.index(w))
        for block in range(blocks):
            key, end, halves = block_of(
                block, first, end_a, start_b, end_b, blocks_a, listed, entries, count, LISTS, KEYS
            )
            stage = done % STAGES
            phase = (done // STAGES) & 1
            mbarrier.wait(k_empty.index(stage), phase ^ 1)
            mbarrier.expect(k_full.index(stage), k_desc.block_type.nbytes)
            _load(k_desc, [b, head // GROUP, key, 0], k_full.index(stage), k_ring.index(stage))
            mbarrier.wait(v_empty.index(stage), phase ^ 1)
            mbarrier.expect(v_full.index(stage), v_desc.block_type.nbytes)
            _load(v_desc, [b, head // GROUP, key, 0], v_full.index(stage), v_ring.index(stage))
            done += 1
        turn += 1
        index = following
    # The last program leaves the counters as it found them.
    if gl.atomic_add(counters + 1, 1) == programs - 1:
        gl.atomic_xchg(counters, 0)
        gl.atomic_xchg(counters + 1, 0)


@gluon.jit
def _multiply(
    descriptors, rings, barriers, pointers, sizes, scale, who: gl.constexpr,
    CAUSAL: gl.constexpr, HAS_VALID: gl.constexpr, LISTS: gl.constexpr,
    ROWS: gl.constexpr, KEYS: gl.constexpr, HEAD: gl.constexpr, STAGES: gl.constexpr,
    TURNS: gl.constexpr, HOLD_Q: gl.constexpr, SHARE: gl.constexpr,
):  # fmt: skip
    q_desc, k_desc, v_desc, o_desc = descriptors
    q_ring, k_ring, v_ring, o_ring, task_ring = rings
    q_full, q_empty, k_full, k_empty, v_full, v_empty, task_full, task_empty, turns = barriers
    heads, valid, key_mask, list_count, list_index, list_heads, room, counters = pointers
    batch, long_heads, long_section, short_heads, short_section, q_len, kv_len, q_offset, tiles, tasks = sizes
    HALF: gl.constexpr = ROWS // 2
    dtype: gl.constexpr = q_desc.dtype
    one: gl.constexpr = gl.BlockedLayout([1], [32], [4], [0])
    score_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, KEYS, 16])
    output_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, HEAD, 16])
    weight_layout: gl.constexpr = gl.DotOperandLayout(0, output_layout, 2)
    row_layout: gl.constexpr = gl.SliceLayout(1, output_layout)
    q_operand = q_ring.index(who).reshape([HALF, HEAD])
    nothing = gl.zeros([HALF, KEYS], gl.float32, score_layout)
    done = 0
    turn = 0
    given = 0
    index = gl.program_id(0)
    tile, b, place = place_of(index, batch, long_heads, long_section, short_heads, short_section, tiles)
    head = gl.load(heads + 4 * place)
    window = gl.minimum(gl.load(heads + 4 * place + 1), UNBOUNDED)
    sinks = gl.minimum(gl.load(heads + 4 * place + 2), UNBOUNDED)
    slot = gl.load(heads + 4 * place + 3)
    while index < tasks:
        # What the next task needs is loaded now, and here by the time it is used.
        mbarrier.wait(task_full.index(turn % 2), (turn // 2) & 1)
        following = gl.max(task_ring.index(turn % 2).load(one), 0)
        mbarrier.arrive(task_empty.index(turn % 2), count=1)
        next_tile, next_b, next_place = place_of(
            gl.minimum(following, tasks - 1),
            batch,
            long_heads,
            long_section,
            short_heads,
            short_section,
            tiles,
        )
        next_head = gl.load(heads + 4 * next_place)
        next_window = gl.load(heads + 4 * next_place + 1)
        next_sinks = gl.load(heads + 4 * next_place + 2)
        next_slot = gl.load(heads + 4 * next_place + 3)

        low, sink_end, first, end_a, start_b, end_b, blocks_a, blocks = ranges_of(
            tile, b, window, sinks, valid, q_len, kv_len, q_offset, CAUSAL, HAS_VALID, ROWS, KEYS
        )
        low = low + who * HALF
        mask_row = key_mask
        holes = False
        if HAS_VALID:
            mask_row = key_mask + b.to(gl.int64) * kv_len
            holes = gl.load(valid + 3 * b + 2) != 0
        listed = False
        entries = list_index
        count = 0
        if LISTS:
            listed = window == 0
            if listed:
                at = (b * list_heads + slot) * tiles + tile
                entries, count, blocks = list_of(at, room, list_count, list_index)
                window = UNBOUNDED
                end_b = kv_len
                if HAS_VALID:
                    end_b = gl.load(valid + 3 * b + 1)
                    holes = holes | (first > 0)  # A list may name blocks before the first valid key.
        peak = gl.full([HALF], float("-inf"), gl.float32, gl.SliceLayout(1, score_layout))
        total = gl.zeros([HALF], gl.float32, gl.SliceLayout(1, score_layout))
        out = gl.zeros([HALF, HEAD], gl.float32, output_layout)

        mbarrier.wait(q_full.index(who), turn & 1)
        if HOLD_Q:
            q = q_operand.load(gl.DotOperandLayout(0, score_layout, 2))
            fence_async_shared()
            mbarrier.arrive(q_empty.index(who), count=1)
        else:
            q = q_operand
        stage = done % STAGES
        mbarrier.wait(k_full.index(stage), (done // STAGES) & 1)
        k_operand = k_ring.index(stage).reshape([KEYS, HEAD]).permute((1, 0))
        scores = warpgroup_mma(q, k_operand, nothing, use_acc=False, is_async=True)
        key, end, halves = block_of(
            0, first, end_a, start_b, end_b, blocks_a, listed, entries, count, LISTS, KEYS
        )
        if LISTS:
            end = gl.where(((halves >> who) & 1) != 0, end, 0)
        scores = warpgroup_mma_wait(0, deps=[scores])
        mbarrier.arrive(k_empty.index(stage), count=1)
        scores = hide(
            scores,
            key,
            end,
            low,
            window,
            sink_end,
            mask_row,
            holes,
            CAUSAL,
            HAS_VALID,
            HALF,
            KEYS,
            score_layout,
        )
        weights, peak, total, decay = softmax(scores, peak, total, scale)
        weights = gl.convert_layout(weights.to(dtype), weight_layout)

        for block in range(1, blocks):
            key, end, halves = block_of(
                block, first, end_a, start_b, end_b, blocks_a, listed, entries, count, LISTS, KEYS
            )
            if LISTS:
                end = gl.where(((halves >> who) & 1) != 0, end, 0)
            before = stage
            before_phase = (done // STAGES) & 1
            done += 1
            stage = done % STAGES
            mbarrier.wait(k_full.index(stage), (done // STAGES) & 1)
            k_operand = k_ring.index(stage).reshape([KEYS, HEAD]).permute((1, 0))
            if TURNS:
                mbarrier.wait(turns.index(who), (given & 1) ^ (1 - who))
            scores = warpgroup_mma(q, k_operand, nothing, use_acc=False, is_async=True)
            mbarrier.wait(v_full.index(before), before_phase)
            v_operand = v_ring.index(before).reshape([KEYS, HEAD])
            out = warpgroup_mma(weights, v_operand, out, is_async=True)
            if TURNS:
                mbarrier.arrive(turns.index(1 - who), count=1)
                given += 1
            scores = warpgroup_mma_wait(1, deps=[scores])
            mbarrier.arrive(k_empty.index(stage), count=1)
            scores = hide(
                scores,
                key,
                end,
                low,
                window,
                sink_end,
                mask_row,
                holes,
                CAUSAL,
                HAS_VALID,
                HALF,
                KEYS,
                score_layout,
            )
            next_weights, peak, total, decay = softmax(scores, peak, total, scale)
            out = warpgroup_mma_wait(0, deps=[out])
            mbarrier.arrive(v_empty.index(before), count=1)
            out = out * gl.convert_layout(decay, row_layout)[:, None]
            weights = gl.convert_layout(next_weights.to(dtype), weight_layout)

        if not HOLD_Q and not SHARE:
            mbarrier.arrive(q_empty.index(who), count=1)
        mbarrier.wait(v_full.index(stage), (done // STAGES) & 1)
        v_operand = v_ring.index(stage).reshape([KEYS, HEAD])
        out = warpgroup_mma(weights, v_operand, out, is_async=True)
        inverse = gl.where(total > 0.0, 1.0 / total, 0.0)
        out = warpgroup_mma_wait(0, deps=[out])
        mbarrier.arrive(v_empty.index(stage), count=1)
        done += 1

        out = out * gl.convert_layout(inverse, row_layout)[:, None]
        if SHARE:
            o_block = q_ring.index(who)
        else:
            o_block = o_ring.index(who)
            tma.store_wait(0)
        o_block.reshape([HALF, HEAD]).store(out.to(dtype))
        fence_async_shared()
        _store(o_desc, [b, head, tile * ROWS + who * HALF, 0], o_block)
        if SHARE:
            tma.store_wait(0)
            mbarrier.arrive(q_empty.index(who), count=1)
        turn += 1
        index = following
        tile = next_tile
        b = next_b
        head = next_head
        window = gl.minimum(next_window, UNBOUNDED)
        sinks = gl.minimum(next_sinks, UNBOUNDED)
        slot = next_slot
    tma.store_wait(0)


# Sizes are not looked at: a growing cache would be compiled for anew. The pointers are read element by element.
@gluon.jit(
    do_not_specialize=(
        "heads", "valid", "key_mask", "list_count", "list_index", "counters",
        "batch", "long_heads", "long_section", "short_heads", "short_section",
        "q_len", "kv_len", "q_offset", "tiles", "tasks", "list_heads", "room", "scale",
    )
)  # fmt: skip
def hopper_prefill(
    q_desc, k_desc, v_desc, o_desc, heads, valid, key_mask, list_count, list_index, counters,
    batch, long_heads, long_section, short_heads, short_section, q_len, kv_len, q_offset, tiles, tasks,
    list_heads, room, scale,
    GROUP: gl.constexpr, CAUSAL: gl.constexpr, HAS_VALID: gl.constexpr, LISTS: gl.constexpr,
    ROWS: gl.constexpr, KEYS: gl.constexpr, HEAD: gl.constexpr, STAGES: gl.constexpr,
    TURNS: gl.constexpr, HOLD_Q: gl.constexpr, SHARE: gl.constexpr,
):  # fmt: skip
    """Write O, computed as `hcompile.reference` does.

    Args:
        q_desc, o_desc: of `[B, Hq, Sq, D]`, in blocks of `[1, 1, ROWS // 2, HEAD]`.
        k_desc, v_desc: of `[B, Hkv, Sk, D]`, in blocks of `[1, 1, KEYS, HEAD]`.
        heads: int32 `[R, 4]`, head, window (0: the head reads lists), sinks, which of the heads with lists it is; in
            the order in which they are taken.
        valid: int32 `[B, 3]`, first valid key, end of the valid ones, whether some between are not.
        key_mask: bool `[B, Sk]`.
        list_count, list_index: int32 `[B, list_heads, tiles]`, `[B, list_heads, tiles, room]`; an entry is
            4 * (block of KEYS keys) + 1 where the upper half of the tile's rows sees it + 2 where the lower half does.
        counters: int32 `[2]`, zeros, and zeros again when the kernel ends.
        scale: of the scores, times log2(e).
    """
    gl.static_assert(not (HOLD_Q and SHARE), "the place of queries is given back once")
    HALF: gl.constexpr = ROWS // 2
    dtype: gl.constexpr = q_desc.dtype
    q_ring = gl.allocate_shared_memory(dtype, [2, 1, 1, HALF, HEAD], q_desc.layout)
    k_ring = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, KEYS, HEAD], k_desc.layout)
    v_ring = gl.allocate_shared_memory(dtype, [STAGES, 1, 1, KEYS, HEAD], v_desc.layout)
    if SHARE:
        o_ring = q_ring
    else:
        o_ring = gl.allocate_shared_memory(dtype, [2, 1, 1, HALF, HEAD], o_desc.layout)
    task_ring = gl.allocate_shared_memory(gl.int32, [2, 1], gl.SwizzledSharedLayout(1, 1, 1, [0]))
    q_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    q_empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    k_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    k_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    v_empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    task_full = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    task_empty = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    turns = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(2):
        mbarrier.init(q_full.index(i), count=1)
        mbarrier.init(q_empty.index(i), count=1)
        mbarrier.init(task_full.index(i), count=1)
        mbarrier.init(task_empty.index(i), count=2)
        mbarrier.init(turns.index(i), count=1)
    for i in gl.static_range(STAGES):
        mbarrier.init(k_full.index(i), count=1)
        mbarrier.init(k_empty.index(i), count=2)
        mbarrier.init(v_full.index(i), count=1)
        mbarrier.init(v_empty.index(i), count=2)
    descriptors = (q_desc, k_desc, v_desc, o_desc)
    rings = (q_ring, k_ring, v_ring, o_ring, task_ring)
    barriers = (q_full, q_empty, k_full, k_empty, v_full, v_empty, task_full, task_empty, turns)
    pointers = (heads, valid, key_mask, list_count, list_index, list_heads, room, counters)
    sizes = (
        batch,
        long_heads,
        long_section,
        short_heads,
        short_section,
        q_len,
        kv_len,
        q_offset,
        tiles,
        tasks,
    )
    # Written out in the call: constants in a tuple that has a name become values.
    gl.warp_specialize(
        [
            (_multiply, (
                descriptors, rings, barriers, pointers, sizes, scale, 0,
                CAUSAL, HAS_VALID, LISTS, ROWS, KEYS, HEAD, STAGES, TURNS, HOLD_Q, SHARE,
            )),
            (_multiply, (
                descriptors, rings, barriers, pointers, sizes, scale, 1,
                CAUSAL, HAS_VALID, LISTS, ROWS, KEYS, HEAD, STAGES, TURNS, HOLD_Q, SHARE,
            )),
            (_load_blocks, (
                descriptors, rings, barriers, pointers, sizes,
                GROUP, CAUSAL, HAS_VALID, LISTS, ROWS, KEYS, STAGES,
            )),
        ],
        [4, 1],
        [CONSUMER_REGISTERS, LOADER_REGISTERS],
    )  # fmt: skip
