"""A block of vectors that the compiler keeps in registers: the accumulators of a product's inner loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tvm.script import tirx as T

from hcompile.codegen.tvm_cpu.vector_ops import vec, wide
from hcompile.schedules.templates.tvm_cpu_attention import ACCUMULATORS

HALF = ACCUMULATORS // 2
"""The vectors of each of the two buffers of a tile."""


class RegisterTile:
    """`rows` x `vectors` float32 vectors in two local buffers, since TVM puts a buffer of 1 KiB or more on the heap.

    Each method emits code with all loops over the tile unrolled, so that every index into the buffers is a constant and
    LLVM keeps their content in registers.
    """

    def __init__(self, buffers: Sequence[Any], rows: int, vectors: int, lanes: int) -> None:
        self._buffers = buffers
        self._rows, self._vectors, self._lanes = rows, vectors, lanes

    def clear(self) -> None:
        for r, n in self._cells():
            self._set(r, n, wide(T.float32(0), self._lanes))

    def load(self, source: Any, at: Any, step: int) -> None:
        """Read rows of vectors that stand `step` elements apart from `at` on."""
        for r, n in self._cells():
            self._set(r, n, source[vec(at + r * step + n * self._lanes, self._lanes)])

    def store(self, target: Any, at: Any, step: int) -> None:
        for r, n in self._cells():
            T.buffer_store(target, self._get(r, n), [vec(at + r * step + n * self._lanes, self._lanes)])

    def scale(self, row: Sequence[Any]) -> None:
        for r, n in self._cells():
            self._set(r, n, self._get(r, n) * row[n])

    def accumulate(
        self, step: Callable[[Any, Any, Any], Any], source: Any, column: Sequence[Any], row: Sequence[Any]
    ) -> None:
        """Add the outer product of scalars, `source` at the indices `column`, and the vectors of `row`."""
        row = [T.Bind(x) for x in row]
        for r in range(self._rows):
            scalar = T.Bind(wide(source[column[r]], self._lanes))
            for n in range(self._vectors):
                self._set(r, n, step(self._get(r, n), scalar, row[n]))

    def hide(self, position: Any, low: Sequence[Any], high: Sequence[Any], value: float) -> None:
        """Set the lanes of row r whose position, rising from `position`, is not in [low[r], high[r]) to `value`."""
        for r, n in self._cells():
            buffer, first = self._place(r, n)
            with T.vectorized(self._lanes) as l:
                at = position + n * self._lanes + l
                seen = T.And(at >= low[r], at < high[r])
                T.buffer_store(buffer, T.Select(seen, buffer[first + l], T.float32(value)), [first + l])

    def raise_to_rows(self, target: Any, at: Any) -> None:
        """Raise each vector of `target` from `at` on to the largest of its column."""
        for n in range(self._vectors):
            index = vec(at + n * self._lanes, self._lanes)
            largest = target[index]
            for r in range(self._rows):
                largest = T.max(largest, self._get(r, n))
            T.buffer_store(target, largest, [index])

    def _cells(self) -> Iterator[tuple[int, int]]:
        return ((r, n) for r in range(self._rows) for n in range(self._vectors))

    def _get(self, r: int, n: int) -> Any:
        buffer, first = self._place(r, n)
        return buffer[vec(first, self._lanes)]

    def _set(self, r: int, n: int, value: Any) -> None:
        buffer, first = self._place(r, n)
        T.buffer_store(buffer, value, [vec(first, self._lanes)])

    def _place(self, r: int, n: int) -> tuple[Any, int]:
        half, place = divmod(r * self._vectors + n, HALF)
        return self._buffers[half], place * self._lanes
