"""Measures decode attention on a GPU: one query a sequence over a long cache.

    python -m benchmarks.gpu_decode [--rounds N] [--results FOLDER]

32 query and 8 KV heads of 128, bfloat16. Over the whole cache the peers are SDPA's cuDNN and flash; a window has none,
and is compared with a plain sum over as many bytes that lie side by side (`read`). Bytes are those of the visited keys
and values. The batch of one is timed in a CUDA graph of calls back to back over many caches, cold in each of them; with
`early` a call starts while the one before it ends, which behind another kernel than this one gains less.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from torch.nn.attention import SDPBackend

from benchmarks.gpu_prefill import (
    HEADS,
    KV_HEADS,
    LARGEST_ERROR,
    checked,
    heads,
    poisoned,
    relative_error,
    sdpa,
)
from benchmarks.gpu_timing import ceilings, time_gpu
from benchmarks.record import RESULTS, paired, save, spread
from hcompile.codegen.triton_gpu.decode import bind
from hcompile.codegen.triton_gpu.machine import this_gpu
from hcompile.patterns import Dense, Local, Pattern
from hcompile.reference import attention_reference
from hcompile.schedules import Schedule
from hcompile.schedules.templates import triton_decode

HEAD_DIM = 128
CACHES = 12
ROWS: tuple[tuple[str, int, int, Pattern, dict[str, int]], ...] = (
    ("dense-b16-32k", 16, 32768, Dense(), {"keys": 128, "splits": 3, "warps": 8, "stages": 3, "early": 0}),
    ("dense-b64-8k", 64, 8192, Dense(), {"keys": 128, "splits": 1, "warps": 8, "stages": 3, "early": 0}),
    (
        "window-1024-b64-8k",
        64,
        8192,
        Local(1024, 64),
        {"keys": 32, "splits": 1, "warps": 2, "stages": 3, "early": 0},
    ),
)
ONES = (
    {"keys": 128, "splits": 9, "warps": 8, "stages": 2, "early": 1},
    {"keys": 128, "splits": 9, "warps": 4, "stages": 2, "early": 0},
    {"keys": 64, "splits": 6, "warps": 4, "stages": 3, "early": 1},
)
"""Values of schedules that were good among some ten on one H200; tuning is to choose them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15, help="default 15")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    measured: dict[str, Any] = {"ceilings": ceilings(), "rows": []}
    read = measured["ceilings"]["read_tbps"]
    click.echo(measured["ceilings"])
    for name, batch, length, pattern, values in ROWS:
        row = measure(name, batch, length, pattern, values, options.rounds, read)
        measured["rows"].append(row)
        click.echo(row)
    measured["one"] = measure_one(131072, Local(1024, 64), options.rounds)
    click.echo(measured["one"])
    click.echo(save("gpu-decode", this_gpu(), measured, options.results))


def measure(
    name: str,
    batch: int,
    length: int,
    pattern: Pattern,
    values: dict[str, int],
    rounds: int,
    read_tbps: float,
) -> dict[str, Any]:
    q, k, v = inputs(batch, length)
    params = heads([pattern] * HEADS)
    ours = partial(
        bind(Schedule.of(triton_decode.NAME, values)), q, k, v, None, params, length - 1, HEAD_DIM**-0.5, True
    )
    error = check(poisoned(ours, q), q, k, v, params, length - 1)
    calls: dict[str, Callable[[], object]] = {"ours": ours}
    if isinstance(pattern, Dense):
        calls["cudnn"] = partial(sdpa, SDPBackend.CUDNN_ATTENTION, q, k, v, False)
        calls["flash"] = partial(sdpa, SDPBackend.FLASH_ATTENTION, q, k, v, False)
    size = batch * KV_HEADS * pattern.visited_pairs(1, length, causal=True) * HEAD_DIM * 2 * 2
    example = ours()
    for peer, call in calls.items():
        out = call()
        assert isinstance(out, torch.Tensor) and relative_error(out, example) <= 2 * LARGEST_ERROR, peer
    side_by_side = torch.empty(size // 8, dtype=torch.int64, device="cuda")
    calls["read"] = side_by_side.sum
    times_us = time_gpu(calls, rounds)
    tbps = {each: round(size / median(times) / 1e6, 3) for each, times in times_us.items()}
    return {
        "name": name,
        "schedule": values,
        "error": error,
        "times_us": {each: spread(times) for each, times in times_us.items()},
        "tbps": tbps,
        "of_read_bandwidth": round(tbps["ours"] / read_tbps, 3),
        "over": {
            each: spread(paired(times, times_us["ours"]), 3)
            for each, times in times_us.items()
            if each != "ours"
        },
    }


def measure_one(length: int, pattern: Pattern, rounds: int) -> dict[str, Any]:
    """Time a batch of one in CUDA graphs of one call for each of several caches, one graph a schedule."""
    caches = [inputs(1, length) for _ in range(CACHES)]
    params = heads([pattern] * HEADS)
    graphs: dict[str, Callable[[], object]] = {}
    errors = {}
    for values in ONES:
        schedule = Schedule.of(triton_decode.NAME, values)
        kernel = bind(schedule)
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
        with torch.cuda.stream(stream):
            kernel(
                *caches[0], None, params, length - 1, HEAD_DIM**-0.5, True
            )  # Its counters are of this stream.
            torch.cuda.synchronize()
            with torch.cuda.graph(graph, stream=stream):
                outs = [kernel(*cache, None, params, length - 1, HEAD_DIM**-0.5, True) for cache in caches]
        for out in outs:
            out.fill_(float("nan"))
        graph.replay()
        errors[schedule.text] = max(
            check(out, *cache, params, length - 1) for out, cache in zip(outs, caches, strict=True)
        )
        graphs[schedule.text] = graph.replay
    times_us = time_gpu(graphs, rounds)
    return {
        "name": "window-1024-b1-128k",
        "calls": CACHES,
        "errors": errors,
        "us_a_call": {name: spread([time / CACHES for time in each], 2) for name, each in times_us.items()},
    }


def inputs(batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return q `[B, Hq, 1, D]` and a cache `[B, Hkv, S, D]`."""
    q, k, v = (
        torch.randn(batch, count, size, HEAD_DIM, device="cuda", dtype=torch.bfloat16)
        for count, size in ((HEADS, 1), (KV_HEADS, length), (KV_HEADS, length))
    )
    return q, k, v


def check(
    out: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, params: torch.Tensor, position: int
) -> float:
    """Return the relative error of the first and the last sequence against the reference in float64."""
    worst = 0.0
    for row in (slice(0, 1), slice(q.shape[0] - 1, q.shape[0])):
        queries, keys, values = (tensor[row].double() for tensor in (q, k, v))
        wanted = attention_reference(queries, keys, values, None, params, position, HEAD_DIM**-0.5, True)
        worst = max(worst, relative_error(out[row], wanted))
    return checked(worst)


if __name__ == "__main__":
    main()
