"""The attention tile function in TVMScript: one query tile of one head, any visible keys, online softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tvm.script import tirx as T
from tvm.tirx import Shuffle


@dataclass(frozen=True, slots=True)
class Tile:
    """The generated function, and the constants that the launcher is compiled with."""

    function: Any
    defines: dict[str, int]


def tile_function(v: dict[str, int], head_dim: int, dtype: str) -> Tile:
    L = v["lanes"]
    BQ, BK = v["block_q"], v["block_k"]
    MS, NS, MO, NO = v["mr_s"], v["nv_s"], v["mr_o"], v["nv_o"]
    UD = 1
    STAGE = bool(v["stage"])
    D = head_dim
    SL = L if D % L == 0 else 8
    BF = dtype == "bfloat16"
    ELEM = "uint16" if BF else "float32"
    WS, WO = NS * L, NO * L
    HS = 15 * 16 // WS if MS * WS > 240 else MS      # rows of the first accumulator half
    HO = 15 * 16 // WO if MO * WO > 240 else MO
    oQT = 0
    oP = oQT + D * BQ
    oACC = oP + BK * BQ
    oM = oACC + D * BQ
    oL = oM + BQ
    oMN = oL + BQ
    oAL = oMN + BQ
    oK = oAL + BQ
    oV = oK + (BK * D if STAGE else 0)
    SIZE = oV + (BK * D if STAGE else 0)
    HIDDEN, UNSEEN = -1e30, -1e29

    @T.macro
    def fill(C, rows, width, value):
        for r in T.unroll(rows * width // L):
            for l in T.vectorized(L):
                C[r * L + l] = T.float32(value)

    @T.macro
    def fma(C, rows, width, A, a0, a_step, B, b0):
        for r in T.unroll(rows):
            for n in T.unroll(width // L):
                for l in T.vectorized(L):
                    C[r * width + n * L + l] = C[r * width + n * L + l] + A[a0 + r * a_step] * B[b0 + n * L + l]

    @T.macro
    def hide(C, rows, LO, j, i0, p0):
        for r in T.unroll(rows):
            for n in T.unroll(WS // L):
                for l in T.vectorized(L):
                    C[r * WS + n * L + l] = T.Select(
                        T.And(p0 + i0 + n * L + l >= LO[j + r], p0 + i0 + n * L + l < LO[BK + j + r]), C[r * WS + n * L + l], T.float32(HIDDEN))

    @T.macro
    def keep(C, rows, X, p_at, m_at):
        for n in T.unroll(WS // L):
            for r in T.unroll(rows):
                for l in T.vectorized(L):
                    X[m_at + n * L + l] = T.max(X[m_at + n * L + l], C[r * WS + n * L + l])
        for r in T.unroll(rows):
            for n in T.unroll(WS // L):
                for l in T.vectorized(L):
                    X[p_at + r * BQ + n * L + l] = C[r * WS + n * L + l]

    def exp2(x):
        x = T.max(x, T.float32(-127.0))
        shifted = x + T.float32(12582912.0)
        f = x - (T.reinterpret("float32", T.reinterpret("int32", shifted)) - T.float32(12582912.0))
        y = T.float32(0.0013264727139957249)
        for c in (0.009671512639957249, 0.05550733743470752, 0.2402224208537672, 0.6931469775989911, 1.0):
            y = y * f + T.float32(c)
        return T.reinterpret("float32", T.reinterpret("int32", y) + T.shift_left(T.reinterpret("int32", shifted), T.int32(23)))

    def load(X, at, n):
        if BF:
            bits = T.cast(X[at], f"uint32x{n}" if n > 1 else "uint32")
            return T.reinterpret(f"float32x{n}" if n > 1 else "float32", T.shift_left(bits, wide(T.uint32(16), n)))
        return X[at]

    def wide(x, n):
        return T.Broadcast(x, n) if n > 1 else x

    def store(x, n):
        if not BF:
            return x
        bits = T.reinterpret(f"uint32x{n}", x)
        odd = T.bitwise_and(T.shift_right(bits, wide(T.uint32(16), n)), wide(T.uint32(1), n))
        return T.cast(T.shift_right(bits + wide(T.uint32(0x7FFF), n) + odd, wide(T.uint32(16), n)), f"uint16x{n}")

    def read_q(X, Q, i, d, rows, step, scale):
        vecs = []
        for r in range(8):
            row = T.min(i * 8 + r, rows - 1)
            vecs.append(T.Bind(load(Q, T.Ramp(T.int64(row) * step + T.int64(d * 8), T.int64(1), 8), 8) * T.Broadcast(scale, 8)))
        for r, x in enumerate(transpose8(vecs)):
            T.buffer_store(X, x, [T.Ramp(oQT + (d * 8 + r) * BQ + i * 8, 1, 8)])

    def write_o(X, O, i, d, rows, step):
        inv = T.Bind(X[T.Ramp(oAL + i * 8, 1, 8)])
        vecs = [T.Bind(X[T.Ramp(oACC + (d * 8 + r) * BQ + i * 8, 1, 8)] * inv) for r in range(8)]
        for r, x in enumerate(transpose8(vecs)):
            with T.If(i * 8 + r < rows):
                with T.Then():
                    T.buffer_store(O, store(x, 8), [T.Ramp(T.int64(i * 8 + r) * step + T.int64(d * 8), T.int64(1), 8)])

    def transpose8(vecs):
        for s in (4, 2, 1):
            for r in range(8):
                if not r & s:
                    a, b = vecs[r], vecs[r + s]
                    vecs[r] = T.Bind(Shuffle([a, b], [8 + l - s if l & s else l for l in range(8)]))
                    vecs[r + s] = T.Bind(Shuffle([a, b], [8 + l if l & s else l + s for l in range(8)]))
        return vecs

    @T.macro
    def stage(X, at, Src, step, j0, nk):
        for j in T.serial(nk):
            for d in T.serial(D // SL):
                for l in T.vectorized(SL):
                    X[at + j * D + d * SL + l] = load(Src, T.int64(j0 + j) * step + T.int64(d * SL + l), 1)

    @T.prim_func(s_tir=True)
    def tile(X: T.Buffer((SIZE,), "float32", align=64), q: T.handle(ELEM), k: T.handle(ELEM), vv: T.handle(ELEM), o: T.handle(ELEM), bounds: T.handle("int32"),
             mask: T.handle("uint8"), q_step: T.int64, k_step: T.int64, v_step: T.int64, o_step: T.int64,
             rows: T.int32, p0: T.int32, lo_a: T.int32, hi_a: T.int32, lo_b: T.int32, hi_b: T.int32, window: T.int32,
             sink_end: T.int32, causal: T.int32, has_mask: T.int32, scale: T.float32):
        T.func_attr({"global_symbol": "tile", "tirx.noalias": True})
        Q = T.decl_buffer((1 << 30,), ELEM, data=q, align=2)
        K = T.decl_buffer((1 << 30,), ELEM, data=k, align=2)
        V = T.decl_buffer((1 << 30,), ELEM, data=vv, align=2)
        O = T.decl_buffer((1 << 30,), ELEM, data=o, align=2)
        Mask = T.decl_buffer((1 << 30,), "uint8", data=mask, align=1)
        C0 = T.alloc_buffer((max(HS * WS, HO * WO),), "float32")
        # A second half that no code touches would make TVM put the first one on the heap.
        C1 = T.alloc_buffer((max((MS - HS) * WS, (MO - HO) * WO),), "float32") if HS < MS or HO < MO else C0

        J = T.alloc_buffer((4,), "int32")
        LO = T.decl_buffer((2 * BK,), "int32", data=bounds, align=64)
        n_a: T.let = (hi_a - lo_a + BK - 1) // BK
        n_b: T.let = (hi_b - lo_b + BK - 1) // BK

        for i in T.serial(BQ // 8):
            for d in T.serial(D // 8):
                read_q(X, Q, i, d, rows, q_step, scale)
        for i in T.serial(D * BQ // L):
            for l in T.vectorized(L):
                X[oACC + i * L + l] = T.float32(0)
        for i in T.serial(BQ // L):
            for l in T.vectorized(L):
                X[oM + i * L + l] = T.float32(UNSEEN)
                X[oL + i * L + l] = T.float32(0)

        for b in T.serial(n_a + n_b):
            J[0] = T.if_then_else(b < n_a, lo_a + b * BK, lo_b + (b - n_a) * BK)
            J[1] = T.min(J[0] + BK, T.if_then_else(b < n_a, hi_a, hi_b)) - J[0]
            J[2] = T.cast(T.Or(
                T.Or(has_mask != 0, J[1] % MS != 0),
                T.Or(
                    T.And(causal != 0, J[0] + J[1] - 1 > p0),
                    T.And(J[0] + J[1] > sink_end, T.Or(p0 + rows - 1 - T.max(J[0], sink_end) >= window, J[0] + J[1] - 1 - p0 >= window)),
                ),
            ), "int32")
            j0: T.let = J[0]
            nk: T.let = J[1]
            partial: T.let = J[2]
            if partial != 0:
                for jv in T.serial(BK // L):
                    for l in T.vectorized(L):
                        LO[jv * L + l] = T.Select(jv * L + l < nk, T.if_then_else(causal != 0, j0 + jv * L + l, T.Select(j0 + jv * L + l < sink_end, -(1 << 30), j0 + jv * L + l - window + 1)), (1 << 31) - 1)
                        LO[BK + jv * L + l] = T.Select(j0 + jv * L + l < sink_end, (1 << 31) - 1, j0 + jv * L + l + window)
                if has_mask != 0:
                    for j in T.serial(nk):
                        if Mask[T.int64(j0 + j)] == T.uint8(0):
                            LO[j] = (1 << 31) - 1
            if STAGE:
                stage(X, oK, K, k_step, j0, nk)
                stage(X, oV, V, v_step, j0, nk)
            for i in T.serial(BQ // L):
                for l in T.vectorized(L):
                    X[oMN + i * L + l] = X[oM + i * L + l]
            for jb in T.serial((nk + MS - 1) // MS):
                for ib in T.serial(BQ // WS):
                    fill(C0, HS, WS, 0.0)
                    if HS < MS:
                        fill(C1, MS - HS, WS, 0.0)
                    for d in T.serial(D // UD):
                        for u in T.unroll(UD):
                            if STAGE:
                                fma(C0, HS, WS, X, oK + (jb * MS) * D + d * UD + u, D, X, oQT + (d * UD + u) * BQ + ib * WS)
                                if HS < MS:
                                    fma(C1, MS - HS, WS, X, oK + (jb * MS + HS) * D + d * UD + u, D, X, oQT + (d * UD + u) * BQ + ib * WS)
                            else:
                                fma(C0, HS, WS, K, T.int64(j0 + jb * MS) * k_step + T.int64(d * UD + u), k_step, X, oQT + (d * UD + u) * BQ + ib * WS)
                                if HS < MS:
                                    fma(C1, MS - HS, WS, K, T.int64(j0 + jb * MS + HS) * k_step + T.int64(d * UD + u), k_step, X, oQT + (d * UD + u) * BQ + ib * WS)
                    if partial != 0:
                        hide(C0, HS, LO, jb * MS, ib * WS, p0)
                        if HS < MS:
                            hide(C1, MS - HS, LO, jb * MS + HS, ib * WS, p0)
                    keep(C0, HS, X, oP + jb * MS * BQ + ib * WS, oMN + ib * WS)
                    if HS < MS:
                        keep(C1, MS - HS, X, oP + (jb * MS + HS) * BQ + ib * WS, oMN + ib * WS)
            for i in T.serial(BQ // L):
                for l in T.vectorized(L):
                    X[oAL + i * L + l] = exp2(X[oM + i * L + l] - X[oMN + i * L + l])
                    X[oM + i * L + l] = X[oMN + i * L + l]
                    X[oL + i * L + l] = X[oL + i * L + l] * X[oAL + i * L + l]
            for ib in T.serial(BQ // WS):
                for n in T.unroll(NS):
                    for l in T.vectorized(L):
                        C0[n * L + l] = X[oL + ib * WS + n * L + l]
                for j in T.serial(nk):
                    for n in T.unroll(NS):
                        for l in T.vectorized(L):
                            X[oP + j * BQ + ib * WS + n * L + l] = exp2(X[oP + j * BQ + ib * WS + n * L + l] - X[oMN + ib * WS + n * L + l])
                    for n in T.unroll(NS):
                        for l in T.vectorized(L):
                            C0[n * L + l] = C0[n * L + l] + X[oP + j * BQ + ib * WS + n * L + l]
                for n in T.unroll(NS):
                    for l in T.vectorized(L):
                        X[oL + ib * WS + n * L + l] = C0[n * L + l]
            for ib in T.serial(BQ // WO):
                for db in T.serial(D // MO):
                    for r in T.unroll(HO):
                        for n in T.unroll(NO):
                            for l in T.vectorized(L):
                                C0[r * WO + n * L + l] = X[oACC + (db * MO + r) * BQ + ib * WO + n * L + l] * X[oAL + ib * WO + n * L + l]
                    for r in T.unroll(MO - HO):
                        for n in T.unroll(NO):
                            for l in T.vectorized(L):
                                C1[r * WO + n * L + l] = X[oACC + (db * MO + HO + r) * BQ + ib * WO + n * L + l] * X[oAL + ib * WO + n * L + l]
                    for j in T.serial(nk):
                        if STAGE:
                            fma(C0, HO, WO, X, oV + j * D + db * MO, 1, X, oP + j * BQ + ib * WO)
                            if HO < MO:
                                fma(C1, MO - HO, WO, X, oV + j * D + db * MO + HO, 1, X, oP + j * BQ + ib * WO)
                        else:
                            fma(C0, HO, WO, V, T.int64(j0 + j) * v_step + T.int64(db * MO), 1, X, oP + j * BQ + ib * WO)
                            if HO < MO:
                                fma(C1, MO - HO, WO, V, T.int64(j0 + j) * v_step + T.int64(db * MO + HO), 1, X, oP + j * BQ + ib * WO)
                    for r in T.unroll(HO):
                        for n in T.unroll(NO):
                            for l in T.vectorized(L):
                                X[oACC + (db * MO + r) * BQ + ib * WO + n * L + l] = C0[r * WO + n * L + l]
                    for r in T.unroll(MO - HO):
                        for n in T.unroll(NO):
                            for l in T.vectorized(L):
                                X[oACC + (db * MO + HO + r) * BQ + ib * WO + n * L + l] = C1[r * WO + n * L + l]

        for i in T.serial(BQ // L):
            for l in T.vectorized(L):
                X[oAL + i * L + l] = T.Select(X[oL + i * L + l] > T.float32(0), T.float32(1) / X[oL + i * L + l], T.float32(0))
        for i in T.serial(BQ // 8):
            for d in T.serial(D // 8):
                write_o(X, O, i, d, rows, o_step)

    defines = {
        "HC_BLOCK_Q": BQ,
        "HC_SCRATCH": SIZE,
        "HC_BOUNDS": 2 * BK,
        "HC_ELEMENT": 2 if BF else 4,
        "HC_HEAD_DIM": D,
    }
    return Tile(tile, defines)
