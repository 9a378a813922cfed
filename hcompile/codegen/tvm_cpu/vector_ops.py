"""Vector expressions of the generated kernels that TVM has no operator for, or only a slow one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tvm.script import tirx as T
from tvm.tirx import Shuffle

DOT_BFLOAT16 = """
define linkonce_odr hidden <16 x float> @hc_dot(<16 x float> %sum, <16 x float> %a, <16 x float> %b) alwaysinline {
  %x = bitcast <16 x float> %a to <32 x bfloat>
  %y = bitcast <16 x float> %b to <32 x bfloat>
  %r = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %sum, <32 x bfloat> %x, <32 x bfloat> %y)
  ret <16 x float> %r
}
declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
"""
"""LLVM code to import for `dot_bfloat16`: TVM turns its bfloat16 into integers, which the intrinsic does not take."""

# 2 ** f for |f| <= 1/2, minimax in relative error (9.1e-8) with the constant 1, so that 2 ** 0 is exact.
_EXP2 = (
    0.0013264727139957249,
    0.009671512639957249,
    0.05550733743470752,
    0.2402224208537672,
    0.6931469775989911,
    1.0,
)
# Added to and taken from a small float32, it leaves the nearest integer; the integer stands in the low bits of the sum.
_ROUND = 1.5 * 2**23


def vec(at: Any, lanes: int) -> Any:
    """Return the index of `lanes` adjacent elements from `at` on."""
    return T.Ramp(at, T.int64(1) if getattr(at, "dtype", "int32") == "int64" else 1, lanes)


def wide(value: Any, lanes: int) -> Any:
    return T.Broadcast(value, lanes)


def exp2(x: Any, lanes: int) -> Any:
    """Return 2 ** x for x <= 0 in float32, within 2e-7; exactly 0 for x <= -127, NaN for NaN."""

    def const(value: float) -> Any:
        return wide(T.float32(value), lanes)

    as_int, as_float = f"int32x{lanes}", f"float32x{lanes}"
    x = T.Bind(T.max(const(-127.0), x))  # In this order a NaN stays.
    shifted = T.Bind(
        T.reinterpret(as_int, x + const(_ROUND))
    )  # As integers, so that TVM does not cancel the constant.
    f = T.Bind(x - (T.reinterpret(as_float, shifted) - const(_ROUND)))
    y = const(_EXP2[0])
    for coefficient in _EXP2[1:]:
        y = y * f + const(coefficient)
    return T.reinterpret(as_float, T.reinterpret(as_int, y) + T.shift_left(shifted, wide(T.int32(23), lanes)))


def from_bfloat16(bits: Any, lanes: int) -> Any:
    """Return bfloat16 bits (uint16) as float32."""
    return T.reinterpret(
        f"float32x{lanes}", T.shift_left(T.cast(bits, f"uint32x{lanes}"), wide(T.uint32(16), lanes))
    )


def to_bfloat16(x: Any, lanes: int) -> Any:
    """Return float32 rounded to nearest even bfloat16, as bits (uint16)."""
    sixteen = wide(T.uint32(16), lanes)
    bits = T.Bind(T.reinterpret(f"uint32x{lanes}", x))
    odd = T.bitwise_and(T.shift_right(bits, sixteen), wide(T.uint32(1), lanes))
    return T.cast(T.shift_right(bits + wide(T.uint32(0x7FFF), lanes) + odd, sixteen), f"uint16x{lanes}")


def pair_bits(low: Any, high: Any, lanes: int) -> Any:
    """Return bfloat16 bits (uint16) of two vectors as the pairs (low, high) that `dot_bfloat16` multiplies."""
    low, high = (T.cast(each, f"uint32x{lanes}") for each in (low, high))
    return T.reinterpret(f"float32x{lanes}", T.bitwise_or(low, T.shift_left(high, wide(T.uint32(16), lanes))))


def pair_rounded(low: Any, high: Any, lanes: int) -> Any:
    """Return float32 vectors, none negative, rounded to bfloat16 (ties up) as pairs (low, high)."""
    half = wide(T.uint32(0x8000), lanes)
    low, high = (T.reinterpret(f"uint32x{lanes}", each) + half for each in (low, high))
    high = T.bitwise_and(high, wide(T.uint32(0xFFFF0000), lanes))
    return T.reinterpret(
        f"float32x{lanes}", T.bitwise_or(T.shift_right(low, wide(T.uint32(16), lanes)), high)
    )


def dot_bfloat16(total: Any, a: Any, b: Any) -> Any:
    """Return total + a.low * b.low + a.high * b.high for 16 lanes of pairs."""
    return T.call_extern("float32x16", "hc_dot", total, a, b)


def transpose8(rows: Sequence[Any]) -> list[Any]:
    """Return the transpose of eight vectors of eight lanes, by exchanging halves of halves of halves."""
    rows = list(rows)
    for step in (4, 2, 1):
        for r in range(8):
            if not r & step:
                both = [rows[r], rows[r + step]]
                rows[r] = T.Bind(Shuffle(both, [8 + l - step if l & step else l for l in range(8)]))
                rows[r + step] = T.Bind(Shuffle(both, [8 + l if l & step else l + step for l in range(8)]))
    return rows


def prefetch(element: Any, *, near: bool, write: bool) -> Any:
    """Return a call that brings the cache line of a buffer element into the first level if `near`, or the second.

    The element may lie outside the buffer: a prefetch never faults.
    """
    hints = T.int32(int(write)), T.int32(3 if near else 2), T.int32(1)  # to read or write; locality; data
    return T.call_llvm_intrin("void", "llvm.prefetch", T.address_of(element), *hints)
