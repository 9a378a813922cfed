"""Measures attention alone: our dense kernel against torch SDPA, and a window with sinks against our own dense kernel.

    python -m benchmarks.attention [--length N] [--heads N] [--head-dim N] [--window N] [--sinks N] [--rounds N]

All calls run on all cores, in turn, with the safe schedule of this machine. The gain of the window is compared with
what it could be: the ratio of visited pairs (element-exact), and of the pairs that whole tiles hold (tile-exact).
Dense is compared with SDPA, and the window's last rows with the reference.
Timing needs a machine that does nothing else; `noisy` in the results says when it did.
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
import torch.nn.functional as F

from benchmarks.record import RESULTS, paired, save, spread
from hcompile.codegen import get_backend
from hcompile.patterns import Dense, Local, Pattern
from hcompile.reference import attention_reference
from hcompile.schedules.templates.tvm_cpu_attention import visited_tile_pairs
from hcompile.tuning.timing import Rounds, time_calls

BACKEND = get_backend("tvm_cpu")
LAYOUTS = ("heads-first", "tokens-first")
"""Whether memory is `[B, H, S, D]`, as SDPA likes it, or `[B, S, H, D]`, as models have it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, value in (
        ("length", 8192),
        ("heads", 8),
        ("head-dim", 64),
        ("window", 256),
        ("sinks", 64),
        ("rounds", 9),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"default {value}")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    pattern = Local(options.window, options.sinks)
    cases = [
        measure(dtype, layout, options.heads, options.length, options.head_dim, pattern, options.rounds)
        for dtype in ("float32", "bfloat16")
        for layout in LAYOUTS
    ]
    measured = {
        "heads": options.heads,
        "length": options.length,
        "head_dim": options.head_dim,
        "pattern": pattern.to_json(),
        "cases": cases,
    }
    for case in cases:
        click.echo(summary(case))
    click.echo(save("attention", BACKEND.device(), measured, options.results))


def measure(
    dtype: str, layout: str, heads: int, length: int, head_dim: int, pattern: Local, rounds: int
) -> dict[str, Any]:
    """Time torch's SDPA, our dense kernel and our windowed one on the same inputs, in turn."""
    schedule = BACKEND.safe_schedule(dtype, head_dim)
    kernel = BACKEND.load(BACKEND.build(schedule, dtype, head_dim))
    generator = torch.Generator().manual_seed(0)
    shape = (1, heads, length, head_dim) if layout == "heads-first" else (1, length, heads, head_dim)
    q, k, v = (torch.randn(shape, generator=generator).to(getattr(torch, dtype)) for _ in range(3))
    if layout == "tokens-first":
        q, k, v = (tensor.transpose(1, 2) for tensor in (q, k, v))

    def ours(each: Pattern) -> Callable[[], torch.Tensor]:
        params = torch.tensor([each.params()] * heads, dtype=torch.int32)
        return partial(kernel, q, k, v, None, params, 0, head_dim**-0.5, True)

    calls: dict[str, Callable[[], torch.Tensor]] = {
        "sdpa": partial(F.scaled_dot_product_attention, q, k, v, is_causal=True),
        "dense": ours(Dense()),
        "window": ours(pattern),
    }
    timing = time_calls(list(calls.values()), Rounds(least=rounds, most=rounds))
    # After the timing, as what it allocates would decide whether outputs are faulted in anew.
    outputs = {name: call() for name, call in calls.items()}
    tolerance = {"float32": 1e-5, "bfloat16": 2e-2}[dtype]
    torch.testing.assert_close(outputs["dense"], outputs["sdpa"], rtol=tolerance, atol=tolerance)
    last = slice(length - 64, length)
    params = torch.tensor([pattern.params()] * heads, dtype=torch.int32)
    wanted = attention_reference(q[:, :, last], k, v, None, params, length - 64, head_dim**-0.5, True)
    torch.testing.assert_close(outputs["window"][:, :, last], wanted, rtol=tolerance, atol=tolerance)
    times_us = dict(zip(calls, timing.times_us, strict=True))
    pairs = {
        name: each.visited_pairs(length, length, causal=True)
        for name, each in (("dense", Dense()), ("window", pattern))
    }
    tiles = {
        name: visited_tile_pairs(schedule, each, length, length, causal=True)
        for name, each in (("dense", Dense()), ("window", pattern))
    }
    medians_us = {name: median(each) for name, each in times_us.items()}
    gain = median(paired(times_us["dense"], times_us["window"]))
    flops = {
        name: 4 * head_dim * heads * pairs["window" if name == "window" else "dense"] for name in times_us
    }
    return {
        "dtype": dtype,
        "layout": layout,
        "schedule": schedule.to_json(),
        "noisy": timing.noisy,
        "times_us": {name: spread(each) for name, each in times_us.items()},
        "gflops": {name: round(flops[name] / medians_us[name] / 1000, 1) for name in times_us},
        "dense_over_sdpa": round(median(paired(times_us["sdpa"], times_us["dense"])), 3),
        "window_over_dense": round(gain, 3),
        "window_over_dense_spread": spread(paired(times_us["dense"], times_us["window"]), 3),
        "of_element_exact": round(gain / (pairs["dense"] / pairs["window"]), 3),
        "of_tile_exact": round(gain / (tiles["dense"] / tiles["window"]), 3),
    }


def summary(case: dict[str, Any]) -> str:
    """Return one line for people."""
    times = ", ".join(f"{name} {each['median'] / 1000:.1f} ms" for name, each in case["times_us"].items())
    return (
        f"{case['dtype']} {case['layout']}: {times}; dense {case['dense_over_sdpa']:.2f}x SDPA; window "
        f"{case['window_over_dense']:.2f}x dense, {case['of_element_exact']:.0%} of element-exact, "
        f"{case['of_tile_exact']:.0%} of tile-exact{' (noisy)' if case['noisy'] else ''}"
    )


if __name__ == "__main__":
    main()
