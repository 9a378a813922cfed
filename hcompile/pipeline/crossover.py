"""Measuring from which length on the hybrid graph wins: both graphs interleaved, at rising lengths."""

from __future__ import annotations

from functools import partial
from statistics import median

import torch

from hcompile.program import Program
from hcompile.progress import Progress
from hcompile.runtime.crossover import Crossover, Timing
from hcompile.runtime.inputs import allows, limits, made_up_inputs
from hcompile.runtime.module import Lowered, graphs_without_padding
from hcompile.tuning.timing import Rounds, graph_clock, time_calls

LENGTHS = (128, 256, 512, 1024, 2048, 4096, 8192)
_ROUNDS = Rounds(least=5, most=40, enough_s=0.6)


def measure_crossover(
    program: Program,
    lowered: Lowered,
    axis: tuple[int, int] | None,
    planned: int,
    progress: Progress,
    seed: int = 0,
) -> Crossover:
    """Time the dense and the hybrid graph that calls without padding take (batch 1) at each of `LENGTHS` that the
    program allows, and at `planned`, the length that its plan was made for.

    Stops rising once the hybrid graph takes less than two thirds of the dense one's time twice in a row: from there on
    it only gets better.
    """
    bounds = limits(program, axis)
    lengths = [length for length in sorted({*LENGTHS, planned}) if allows(bounds, length)]
    generator = torch.Generator().manual_seed(seed)
    clock = graph_clock(program.device.type)
    graphs = graphs_without_padding(program, lowered)
    timings: list[Timing] = []
    for done, length in enumerate(lengths):
        progress("crossover", done, len(lengths))
        inputs = made_up_inputs(program, axis, 1, length, generator)
        calls = [partial(graph, *inputs) for graph in graphs]
        try:
            dense, hybrid = (median(times) for times in time_calls(calls, _ROUNDS, clock).times_us)
        except torch.OutOfMemoryError:
            break  # The device holds no call of this length; the lengths below tell which graph is faster.
        timings.append(Timing(length, dense, hybrid))
        if all(timing.hybrid_us < timing.dense_us * 2 / 3 for timing in timings[-2:]) and len(timings) > 1:
            break
    progress("crossover", len(lengths), len(lengths))
    return Crossover.of(timings)
