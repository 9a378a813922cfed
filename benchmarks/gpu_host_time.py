"""Measures the host's time for a call of the GPU kernels: what passes until it is enqueued, on problems so small that
the GPU waits for the host.

    python -m benchmarks.gpu_host_time [--rounds N] [--results FOLDER]

32 query and 8 KV heads of 128, bfloat16, few tokens. Peers are SDPA and an empty kernel's launch, `torch.Tensor.zero_`
of one element. `same` repeats one call, `by the operator` the same through torch's dispatcher, as graphs do; `other
addresses` goes round many copies of its tensors; `other lengths` goes up by a key at each call, so that checks and
sizes are made anew: what the first layer of a decode step sees, where the others see `same`. All calls in turn; timing
needs a machine that does nothing else.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, cycle
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import torch
import torch.nn.functional as F

from benchmarks.gpu_decode import ONES
from benchmarks.gpu_prefill import HEADS, KV_HEADS, heads, space
from benchmarks.record import RESULTS, save, spread
from hcompile.codegen.triton_gpu import decode, hopper_prefill, prefill
from hcompile.codegen.triton_gpu.machine import this_gpu
from hcompile.operator import Kernel, bind, bound_attention
from hcompile.patterns import Dense
from hcompile.schedules import Schedule
from hcompile.schedules.templates import hopper_prefill as hopper_space
from hcompile.schedules.templates import triton_decode, triton_prefill

HEAD_DIM = 128
QUERIES = 128
CACHE = 512
CALLS = 200
"""Calls timed together, in one go; fewer than a stream's queue holds, where the host would wait for the GPU."""
COPIES = 100
SCALE = HEAD_DIM**-0.5


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=25, help="default 25")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.manual_seed(0)
    times_us = measure(options.rounds)
    for name, spread_us in times_us.items():
        click.echo(f"{name}: {spread_us['median']:.1f} us a call")
    measured = {"calls_a_round": CALLS, "us_a_call": times_us}
    click.echo(save("gpu-host-time", this_gpu(), measured, options.results))


def measure(rounds: int) -> dict[str, Any]:
    """Return microseconds a call of each kernel and peer."""
    calls: dict[str, Callable[[], object]] = {}
    kernels = {
        "portable": prefill.bind(space(triton_prefill.NAME, HEAD_DIM).default()),
        "decode": decode.bind(Schedule.of(triton_decode.NAME, ONES[1])),
    }
    if torch.cuda.get_device_capability()[0] == 9:
        kernels["hopper"] = hopper_prefill.bind(space(hopper_space.NAME, HEAD_DIM).default())
        kernels["decode, early"] = decode.bind(Schedule.of(triton_decode.NAME, ONES[0]))
    for name, kernel in kernels.items():
        queries, length = (1, CACHE) if name.startswith("decode") else (QUERIES, QUERIES)
        calls |= {f"{name}, {what}": call for what, call in ours(kernel, name, queries, length).items()}
    q, k, v = inputs(QUERIES, QUERIES)
    sdpa = partial(F.scaled_dot_product_attention, enable_gqa=True)
    calls["SDPA, prefill"] = partial(sdpa, q, k, v, is_causal=True)
    calls["SDPA, decode"] = partial(sdpa, *inputs(1, CACHE))
    calls["one launch"] = torch.zeros(1, device="cuda").zero_
    with torch.inference_mode():
        return timed(calls, rounds)


def ours(kernel: Kernel, binding: str, queries: int, length: int) -> dict[str, Callable[[], object]]:
    """Return calls of a kernel: one and the same, of other tensors each time, and of other lengths.

    Args:
        binding: what to bind the kernel as.
    """
    bind(binding, kernel)
    params = heads([Dense()] * HEADS)
    tensors = inputs(queries, length)
    sets: Iterator[tuple[torch.Tensor, ...]] = cycle([inputs(queries, length) for _ in range(COPIES)])
    offsets = count(length - queries)

    def other_addresses() -> object:
        q, k, v = next(sets)
        return kernel(q, k, v, None, params, length - queries, SCALE, True)

    # A position past the keys is no mistake: the queries see all of them.
    return {
        "same": partial(kernel, *tensors, None, params, length - queries, SCALE, True),
        "by the operator": partial(
            bound_attention, *tensors, None, params, None, None, length - queries, SCALE, True, binding
        ),
        "other addresses": other_addresses,
        "other lengths": lambda: kernel(*tensors, None, params, next(offsets), SCALE, True),
    }


def inputs(queries: int, length: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return q, k, v as models have them: memory `[B, S, H, D]`."""
    q, k, v = (
        torch.randn(1, size, count, HEAD_DIM, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
        for size, count in ((queries, HEADS), (length, KV_HEADS), (length, KV_HEADS))
    )
    return q, k, v


def timed(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, Any]:
    for call in calls.values():
        for _ in range(3):
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            torch.cuda.synchronize()
            start = perf_counter()
            for _ in range(CALLS):
                call()
            seconds[name].append(perf_counter() - start)
    torch.cuda.synchronize()
    return {name: spread([each / CALLS * 1e6 for each in times]) for name, times in seconds.items()}


if __name__ == "__main__":
    main()
