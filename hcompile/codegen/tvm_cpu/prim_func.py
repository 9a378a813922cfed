"""The attention tile function: one query tile of one head against its visible keys, with an online softmax.

Everything stands transposed, queries in vector lanes, so that no step needs a horizontal reduction:

    scores[j, i] = sum_d K[j, d] * Q^T[d, i]         register tiles of mr_s keys x nv_s vectors, K by broadcast
    peak[i]      = max(peak[i], scores[j, i])
    P[j, i]      = 2 ** (scores[j, i] - peak[i])     Q carries scale * log2(e)
    acc[d, i]    = acc[d, i] * 2 ** (old - new peak) + sum_j V[j, d] * P[j, i]     register tiles of mr_o x nv_o

The launcher names the blocks of keys, which start anywhere, so a tile computes hardly more than block_q - 1 keys per
query that the query does not see. A block is masked only where some pair of it is hidden.

With `dot`, bfloat16 inputs stay bfloat16: words of two elements take the place of elements in the first product, words
of two keys take the place of keys in the second, and each step multiplies both and adds in float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T

from hcompile.codegen.tvm_cpu.register_tile import HALF, RegisterTile
from hcompile.codegen.tvm_cpu.vector_ops import (
    DOT_BFLOAT16,
    dot_bfloat16,
    exp2,
    from_bfloat16,
    pair_bits,
    pair_rounded,
    prefetch,
    to_bfloat16,
    transpose8,
    vec,
    wide,
)
from hcompile.schedules.schedule import Schedule

_HIDDEN = -1e30  # Below every score, and so far below _UNSEEN that 2 ** (_HIDDEN - _UNSEEN) is 0.
_UNSEEN = -1e29  # The peak of a query that has seen no key.
_FIRST, _LAST = -(1 << 30), (1 << 31) - 1
_LINE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Tile:
    """The generated function, and the constants that its launcher is compiled with."""

    function: Any
    defines: dict[str, int]


def tile_function(schedule: Schedule, head_dim: int, dtype: str) -> Tile:
    """Return the tile function of a legal schedule for float32 or bfloat16 heads of `head_dim`."""
    D, L = head_dim, schedule["lanes"]
    BQ, BK = schedule["block_q"], schedule["block_k"]
    MS, NS, MO, NO = (schedule[axis] for axis in ("mr_s", "nv_s", "mr_o", "nv_o"))
    DOT, BF16 = bool(schedule["dot"]), dtype == "bfloat16"
    STAGE_K, STAGE_V = bool(schedule["stage"]) and not DOT, bool(schedule["stage"])
    WS, WO = NS * L, NO * L
    SL = L if D % L == 0 else 8  # lanes in which rows of K and V are copied
    PAIR = 2 if DOT else 1
    DW = D // PAIR
    QUERIES_A_STEP = -(-BQ * MS // BK)
    ELEMENT = "uint16" if BF16 else "float32"
    WORD = "float32" if DOT else ELEMENT

    # The parts of scratch, in floats.
    QT = 0
    S = QT + DW * BQ
    ACC = S + BK * BQ
    PEAK = ACC + D * BQ
    SUM = PEAK + BQ
    NEW = SUM + BQ
    DECAY = NEW + BQ
    KS = DECAY + BQ
    VS = KS + (BK * D if STAGE_K else 0)
    SCRATCH = VS + (BK // PAIR * D if STAGE_V else 0)

    def load(buffer: Any, at: Any, lanes: int) -> Any:
        values = buffer[vec(at, lanes)]
        return from_bfloat16(values, lanes) if BF16 and not DOT else values

    def multiply_add(total: Any, a: Any, b: Any) -> Any:
        return dot_bfloat16(total, a, b) if DOT else total + a * b

    def row_of(X: Any, at: Any, vectors: int) -> list[Any]:
        return [X[vec(at + n * L, L)] for n in range(vectors)]

    def read_queries(X: Any, Q: Any, i: Any, d: Any, rows: Any, step: Any, scale: Any) -> None:
        """Write Q^T of eight queries and eight words; queries past the last repeat it."""
        vectors = []
        for r in range(8):
            row = T.min(i * 8 + r, rows - 1)
            x = load(Q, T.int64(row) * step + T.int64(d * 8), 8)
            vectors.append(T.Bind(x if DOT else x * wide(scale, 8)))
        for r, x in enumerate(transpose8(vectors)):
            T.buffer_store(X, x, [vec(QT + (d * 8 + r) * BQ + i * 8, 8)])

    def write_output(X: Any, O: Any, i: Any, d: Any, rows: Any, step: Any) -> None:
        """Write acc^T / sum of eight queries and eight elements of the head."""
        inverse = T.Bind(X[vec(DECAY + i * 8, 8)])
        vectors = [T.Bind(X[vec(ACC + (d * 8 + r) * BQ + i * 8, 8)] * inverse) for r in range(8)]
        for r, x in enumerate(transpose8(vectors)):
            with T.If(i * 8 + r < rows), T.Then():
                y = to_bfloat16(x, 8) if BF16 else x
                T.buffer_store(O, y, [vec(T.int64(i * 8 + r) * step + T.int64(d * 8), 8)])

    def prefetch_row(buffer: Any, row: Any, step: Any, *, near: bool = False, write: bool = False) -> None:
        bytes_an_element = 2 if buffer.dtype == "uint16" else 4
        for element in range(0, D * (2 if BF16 else 4) // bytes_an_element, _LINE_BYTES // bytes_an_element):
            T.evaluate(prefetch(buffer[T.int64(row) * step + T.int64(element)], near=near, write=write))

    def finish_scores(
        scores: RegisterTile, X: Any, bounds: Any, j: Any, i: Any, p0: Any, partial: Any, scale: Any
    ) -> None:
        """Hide what the queries do not see, raise their peaks, write the scores; keys from j, queries from i on."""
        if DOT:  # Q could not carry the scale exactly.
            scores.scale([wide(scale, L)] * NS)
        with T.If(partial != 0), T.Then():
            low, high = ([bounds[at + j + r] for r in range(MS)] for at in (0, BK))
            scores.hide(p0 + i, low, high, _HIDDEN)
        scores.raise_to_rows(X, NEW + i)
        scores.store(X, S + j * BQ + i, BQ)

    def prefetch_piece(V: Any, row: Any, step: Any, d: Any) -> None:
        """Bring the cache line that starts in elements d to d + MO of a row."""
        elements = _LINE_BYTES // (2 if BF16 else 4)
        with T.If(d % elements < MO), T.Then():
            T.evaluate(prefetch(V[T.int64(row) * step + T.int64(d)], near=False, write=False))

    def hides(
        j0: Any, count: int | Any, p0: Any, rows: Any, window: Any, sink_end: Any, causal: Any, has_mask: Any
    ) -> Any:
        """Whether a pair of keys j0 .. j0 + count is masked, in the future, or out of the window and no sink."""
        past_window = T.Or(p0 + rows - 1 - T.max(j0, sink_end) >= window, j0 + count - 1 - p0 >= window)
        return T.cast(
            T.Or(
                has_mask != 0,
                T.Or(T.And(causal != 0, j0 + count - 1 > p0), T.And(j0 + count > sink_end, past_window)),
            ),
            "int32",
        )

    @T.macro
    def fill(X, at, count, value):
        for n in T.serial(count // L):
            X[vec(at + n * L, L)] = wide(T.float32(value), L)

    @T.macro
    def stage(X, at, source, step, j0, count):
        for j in T.serial(count):
            for d in T.serial(D // SL):
                X[vec(at + j * D + d * SL, SL)] = load(source, T.int64(j0 + j) * step + T.int64(d * SL), SL)

    @T.macro
    def stage_pairs(X, at, source, step, j0, count):
        for j in T.serial((count + 1) // 2):
            for d in T.serial(D // SL):
                X[vec(at + j * D + d * SL, SL)] = pair_bits(
                    source[vec(T.int64(j0 + j * 2) * step + T.int64(d * SL), SL)],
                    source[vec(T.int64(j0 + T.min(j * 2 + 1, count - 1)) * step + T.int64(d * SL), SL)],
                    SL,
                )

    @T.macro
    def find_bounds(bounds, mask, j0, count, causal, has_mask, window, sink_end):
        """Key j0 + j is visible to the positions from bounds[j] up to, without, bounds[BK + j]."""
        for n in T.serial(BK // L):
            for l in T.vectorized(L):
                j: T.let = n * L + l
                low: T.let = T.Select(j0 + j < sink_end, _FIRST, j0 + j - window + 1)
                bounds[j] = T.Select(j < count, T.if_then_else(causal != 0, j0 + j, low), _LAST)
                bounds[BK + j] = T.Select(j0 + j < sink_end, _LAST, j0 + j + window)
        if has_mask != 0:
            for j in T.serial(count):
                if mask[T.int64(j0 + j)] == T.uint8(0):
                    bounds[j] = _LAST

    @T.prim_func(s_tir=True)
    def tile(
        X: T.Buffer((SCRATCH,), "float32", align=64),
        q: T.handle(WORD),
        k: T.handle(WORD),
        v: T.handle(ELEMENT),
        o: T.handle(ELEMENT),
        bounds_data: T.handle("int32"),
        key_mask: T.handle("uint8"),
        todo_data: T.handle("int32"),
        q_step: T.int64,
        k_step: T.int64,
        v_step: T.int64,
        o_step: T.int64,
        rows: T.int32,
        p0: T.int32,
        blocks: T.int32,
        scattered: T.int32,
        window: T.int32,
        sink_end: T.int32,
        causal: T.int32,
        has_mask: T.int32,
        scale: T.float32,
    ) -> None:
        T.func_attr({"global_symbol": "tile", "tirx.noalias": True})
        Q = T.decl_buffer((1 << 30,), WORD, data=q, align=2)
        K = T.decl_buffer((1 << 30,), WORD, data=k, align=2)
        V = T.decl_buffer((1 << 30,), ELEMENT, data=v, align=2)
        O = T.decl_buffer((1 << 30,), ELEMENT, data=o, align=2)
        mask = T.decl_buffer((1 << 30,), "uint8", data=key_mask, align=1)
        bounds = T.decl_buffer((2 * BK,), "int32", data=bounds_data, align=64)
        todo = T.decl_buffer(
            (1 << 30,), "int32", data=todo_data, align=4
        )  # First key and keys of each block.
        C0 = T.alloc_buffer((HALF * L,), "float32")
        C1 = T.alloc_buffer((HALF * L,), "float32")
        scores = T.meta_var(RegisterTile((C0, C1), MS, NS, L))
        output = T.meta_var(RegisterTile((C0, C1), MO, NO, L))
        block = T.alloc_buffer((3,), "int32")  # Its first key, its keys, first key of the next one.
        partial = T.alloc_buffer((1,), "int32")  # Whether some pair of the keys at hand is hidden.

        if DOT:
            T.attr("dot", "pragma_import_llvm", DOT_BFLOAT16)
        for i in T.serial(rows):
            prefetch_row(Q, i, q_step, near=True)
        fill(X, ACC, D * BQ, 0.0)
        fill(X, PEAK, BQ, _UNSEEN)
        fill(X, SUM, BQ, 0.0)
        for i in T.serial(BQ // 8):
            for d in T.serial(DW // 8):
                read_queries(X, Q, i, d, rows, q_step, scale)

        for b in T.serial(blocks):
            # Kept in memory: as expressions, TVM's simplifier would carry them into every index.
            block[0] = todo[b * 2]
            block[1] = todo[b * 2 + 1]
            block[2] = todo[b * 2 + 2]
            j0: T.let = block[0]
            count: T.let = block[1]
            partial[0] = hides(j0, count, p0, rows, window, sink_end, causal, has_mask)
            if T.Or(partial[0] != 0, count % MS != 0):
                find_bounds(bounds, mask, j0, count, causal, has_mask, window, sink_end)
            if STAGE_K:
                stage(X, KS, K, k_step, j0, count)
            if STAGE_V:
                if DOT:
                    stage_pairs(X, VS, V, v_step, j0, count)
                else:
                    stage(X, VS, V, v_step, j0, count)

            for i in T.serial(BQ // L):
                X[vec(NEW + i * L, L)] = X[vec(PEAK + i * L, L)]
            for jt in T.serial((count + MS - 1) // MS):
                if not STAGE_K:
                    for r in T.unroll(MS):
                        prefetch_row(K, j0 + jt * MS + MS + r, k_step, near=True)
                # A window computes too little a row to hide that it is far, and a list jumps: rows come a block ahead,
                # and queries a tile (the launcher goes down), a few at a time, as only a few lines can be under way. A
                # dense head's rows come in order, which the hardware sees by itself.
                if scattered != 0:
                    for r in T.unroll(MS):
                        prefetch_row(K, block[2] + jt * MS + r, k_step)
                if b == blocks - 1:
                    for r in T.serial(QUERIES_A_STEP):
                        if jt * QUERIES_A_STEP + r < BQ:
                            prefetch_row(O, jt * QUERIES_A_STEP + r, o_step, write=True)
                            prefetch_row(Q, jt * QUERIES_A_STEP + r - BQ, q_step)
                # Kept in memory, as `block` is.
                partial[0] = T.cast(
                    T.Or(
                        jt * MS + MS > count,
                        hides(j0 + jt * MS, MS, p0, rows, window, sink_end, causal, has_mask) != 0,
                    ),
                    "int32",
                )
                # Rows past the last key repeat it: nothing behind the keys is read, and `bounds` hides them.
                key_at = T.meta_var(
                    [T.Bind(T.int64(j0 + T.min(jt * MS + r, count - 1)) * k_step) for r in range(MS)]
                )
                for it in T.serial(BQ // WS):
                    scores.clear()
                    for d in T.serial(DW):
                        row = T.meta_var(row_of(X, QT + d * BQ + it * WS, NS))
                        if STAGE_K:
                            staged_at = T.meta_var([KS + (jt * MS + r) * D + d for r in range(MS)])
                            scores.accumulate(multiply_add, X, staged_at, row)
                        else:
                            scores.accumulate(multiply_add, K, [at + T.int64(d) for at in key_at], row)
                    finish_scores(scores, X, bounds, jt * MS, it * WS, p0, partial[0], scale)

            for i in T.serial(BQ // L):
                X[vec(DECAY + i * L, L)] = exp2(X[vec(PEAK + i * L, L)] - X[vec(NEW + i * L, L)], L)
                X[vec(PEAK + i * L, L)] = X[vec(NEW + i * L, L)]
                X[vec(SUM + i * L, L)] = X[vec(SUM + i * L, L)] * X[vec(DECAY + i * L, L)]
            for it in T.serial(BQ // WS):
                for n in T.unroll(NS):
                    C0[vec(n * L, L)] = X[vec(SUM + it * WS + n * L, L)]
                for j in T.serial((count + PAIR - 1) // PAIR):
                    for n in T.unroll(NS):
                        at: T.let = it * WS + n * L
                        peak: T.let = X[vec(NEW + at, L)]
                        low: T.let = exp2(X[vec(S + j * PAIR * BQ + at, L)] - peak, L)
                        if DOT:
                            high: T.let = exp2(X[vec(S + (j * PAIR + 1) * BQ + at, L)] - peak, L)
                            C0[vec(n * L, L)] = C0[vec(n * L, L)] + (low + high)
                            X[vec(S + j * BQ + at, L)] = pair_rounded(low, high, L)
                        else:
                            C0[vec(n * L, L)] = C0[vec(n * L, L)] + low
                            X[vec(S + j * BQ + at, L)] = low
                for n in T.unroll(NS):
                    X[vec(SUM + it * WS + n * L, L)] = C0[vec(n * L, L)]

            for it in T.serial(BQ // WO):
                for dt in T.serial(D // MO):
                    output.load(X, ACC + dt * MO * BQ + it * WO, BQ)
                    output.scale(row_of(X, DECAY + it * WO, NO))
                    for j in T.serial((count + PAIR - 1) // PAIR):
                        if scattered != 0:
                            for r in T.unroll(PAIR):
                                prefetch_piece(V, block[2] + j * PAIR + r, v_step, dt * MO)
                        row = T.meta_var(row_of(X, S + j * BQ + it * WO, NO))
                        if STAGE_V:
                            output.accumulate(
                                multiply_add, X, [VS + j * D + dt * MO + r for r in range(MO)], row
                            )
                        else:
                            value_at: T.let = T.int64(j0 + j) * v_step + T.int64(dt * MO)
                            output.accumulate(multiply_add, V, [value_at + r for r in range(MO)], row)
                    output.store(X, ACC + dt * MO * BQ + it * WO, BQ)

        for i in T.serial(BQ // L):
            total: T.let = X[vec(SUM + i * L, L)]
            X[vec(DECAY + i * L, L)] = T.Select(
                total > wide(T.float32(0), L), wide(T.float32(1), L) / total, wide(T.float32(0), L)
            )
        for i in T.serial(BQ // 8):
            for d in T.serial(D // 8):
                write_output(X, O, i, d, rows, o_step)

    defines = {
        "HC_BLOCK_Q": BQ,
        "HC_BLOCK_K": BK,
        "HC_SCRATCH": SCRATCH,
        "HC_BOUNDS": 2 * BK,
        "HC_PEAK": PEAK,
        "HC_SUM": SUM,
        "HC_ELEMENT": 2 if BF16 else 4,
        "HC_PAIR": PAIR,
        "HC_HEAD_DIM": D,
    }
    return Tile(tile, defines)
