"""Measuring which calls the hybrid graph wins: both graphs interleaved, at rising lengths, one row and several."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from time import perf_counter

import torch

from hcompile.program import Program
from hcompile.progress import Progress
from hcompile.runtime.crossover import Crossover, Timing
from hcompile.runtime.inputs import allows, batch_limits, limits, made_up_inputs
from hcompile.runtime.module import Lowered, graphs_without_padding
from hcompile.tuning.timing import Rounds, graph_clock, time_calls

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
BATCHES = (1, 4, 16)
_FARTHEST = 4
"""As long as the hybrid graph has not won, calls of up to this many times the planned tokens are timed."""

_LONGEST_CALL_US = 2e6
"""Beyond the planned tokens, no call is timed that may take longer than this."""

ROUNDS = Rounds(least=5, most=40, enough_s=0.6)
"""Calls of each graph that a time is the median of."""


@dataclass(frozen=True, slots=True)
class _Row:
    """What to time at one batch size: `certain` lengths, and `further` ones where those leave it open; both rising."""

    batch: int
    certain: tuple[int, ...]
    further: tuple[int, ...]


def measure_crossover(
    program: Program,
    lowered: Lowered,
    axis: tuple[int, int] | None,
    planned: int,
    progress: Progress,
    seed: int = 0,
) -> Crossover:
    """Time the dense and the hybrid graph that calls without padding take, by batch size and length.

    The first row is batch 1: each of `LENGTHS` that the program allows and `planned`, the length that its plan was made
    for, until the hybrid graph takes less than two thirds of the dense one's time twice in a row; from there on it only
    gets better. The other batches get as many tokens as `planned` has, until the hybrid graph has won twice in a row,
    and together as long as the first row took. A row that leaves its longest length to the dense graph goes on to
    longer ones. Several rows are not timed with as many tokens as one row lost with: they hold less attention.
    """
    rows = _rows(program, axis, planned)
    total = sum(len(row.certain) + len(row.further) for row in rows)
    generator = torch.Generator().manual_seed(seed)
    clock = graph_clock(program.device.type)
    graphs = graphs_without_padding(program, lowered)

    def measure(batch: int, length: int) -> Timing | None:
        """Return None where the device has no room for such a call."""
        try:
            inputs = made_up_inputs(program, axis, batch, length, generator)
            calls = [partial(graph, *inputs) for graph in graphs]
            dense, hybrid = (median(times) for times in time_calls(calls, ROUNDS, clock).times_us)
        except torch.OutOfMemoryError:
            return None
        return Timing(length, dense, hybrid, batch)

    timings: list[Timing] = []
    passed, began_s, end_s = 0, perf_counter(), math.inf
    for row in rows:
        mine: list[Timing] = []
        for place, length in enumerate((*row.certain, *row.further)):
            progress("crossover", passed + place, total)
            if row is not rows[0] and _lost(timings, row.batch, length):
                continue
            if length in row.further and not _worth_it(timings, row.batch, length):
                break
            if row is not rows[0] and perf_counter() + _measuring_s(timings, row.batch, length) > end_s:
                break
            timing = measure(row.batch, length)
            if timing is None:
                break
            mine.append(timing)
            timings.append(timing)
            if _clear(mine, first=row is rows[0]):
                break
        if not timings:
            break
        passed += len(row.certain) + len(row.further)
        if row is rows[0]:
            now_s = perf_counter()
            end_s = now_s + (now_s - began_s)
    progress("crossover", total, total)
    return Crossover.of(timings)


def _rows(program: Program, axis: tuple[int, int] | None, planned: int) -> list[_Row]:
    sizes = batch_limits(program, axis)
    first = sizes[0]
    bounds = limits(program, axis)
    doubled = {planned * factor for factor in (2, _FARTHEST)}
    lengths = [length for length in sorted({*LENGTHS, planned} | doubled) if allows(bounds, length)]
    rows = []
    for batch in (first, *(batch for batch in BATCHES if batch > first and allows(sizes, batch))):
        if batch == first:
            certain = tuple(length for length in lengths if length in LENGTHS or length == planned)
        else:
            certain = tuple(length for length in lengths if batch * length <= first * planned)
        least, most = max(certain, default=0), _FARTHEST * first * planned
        further = tuple(length for length in lengths if length > least and batch * length <= most)
        rows.append(_Row(batch, certain, further))
    return rows


def _lost(timings: Sequence[Timing], batch: int, length: int) -> bool:
    """Return whether the first row says dense for as many tokens as these rows have together."""
    first = timings[0].batch
    measured = max(timing.length for timing in timings if timing.batch == first)
    as_long = batch * length // first
    return as_long <= measured and not Crossover.of(timings).takes_hybrid(first, as_long)


def _clear(row: Sequence[Timing], *, first: bool) -> bool:
    """Return whether the last two of a row's timings tell how it goes on."""
    if len(row) < 2:
        return False
    return all(timing.hybrid_us < timing.dense_us * 2 / 3 if first else timing.won for timing in row[-2:])


def _worth_it(timings: Sequence[Timing], batch: int, length: int) -> bool:
    """Return whether timing a call beyond the planned tokens can change what it takes, and is not too slow."""
    if Crossover.of(timings).takes_hybrid(batch, length):
        return False
    return max(_expected_us(timings, batch, length)) < _LONGEST_CALL_US


def _measuring_s(timings: Sequence[Timing], batch: int, length: int) -> float:
    """Return how long timing a slow call should take at most; a fast one takes up to `ROUNDS.enough_s` a graph."""
    return (2 + ROUNDS.least) * sum(_expected_us(timings, batch, length)) / 1e6


def _expected_us(timings: Sequence[Timing], batch: int, length: int) -> tuple[float, float]:
    """Return what a dense and a hybrid call should take at most: work grows with the rows and the length's square."""
    known = [timing for timing in timings if timing.length <= length][-1]
    growth = batch / known.batch * (length / known.length) ** 2
    return known.dense_us * growth, known.hybrid_us * growth
