"""Measures the host's time for one attention node: the operator on one token, where there is little to compute.

    python -m benchmarks.host_time [--rounds N] [--results FOLDER]

What it covers: PyTorch's dispatcher, the lookup of the bound kernel by length, and the call into the library. The aim
is 15 us a node. Timing needs a machine that does nothing else.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.record import RESULTS, save, spread
from hcompile.codegen import get_backend
from hcompile.operator import bind, bound_attention
from hcompile.runtime.dispatch import ScheduleTable, bind_table
from hcompile.site import Site
from hcompile.tuning.timing import Rounds, time_calls

BACKEND = get_backend("tvm_cpu")
CALLS = 200
"""Calls timed together: one is as short as the clock's noise."""
HEADS, KV_HEADS, HEAD_DIM = 1, 1, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=25, help="default 25")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    times_us = measure(options.rounds)
    measured = {"calls_a_round": CALLS, "us_a_call": times_us}
    for name, spread_us in times_us.items():
        click.echo(f"{name}: {spread_us['median']:.1f} us a call")
    click.echo(save("host-time", BACKEND.device(), measured, options.results))


def measure(rounds: int) -> dict[str, Any]:
    """Return microseconds a call: of the operator under a table of three lengths, and of one that computes nothing."""
    safe = BACKEND.safe_schedule("float32", HEAD_DIM)
    table = ScheduleTable(((1024, safe), (4096, safe), (16384, safe)))
    bind("empty", lambda q, *_: torch.empty_like(q))
    q = torch.randn(1, HEADS, 1, HEAD_DIM)
    k = torch.randn(1, KV_HEADS, 1, HEAD_DIM)
    params = torch.tensor([[256, 16]] * HEADS, dtype=torch.int32)

    site = Site("node", 0, HEADS, KV_HEADS, HEAD_DIM, 0.125, True)

    def repeat(binding: str) -> None:
        for _ in range(CALLS):
            bound_attention(q, k, k, None, params, None, None, 0, 0.125, True, binding)

    bindings = {"a kernel": bind_table(table, BACKEND.name, "float32", site), "an empty kernel": "empty"}
    with torch.inference_mode():
        timing = time_calls(
            [partial(repeat, binding) for binding in bindings.values()], Rounds(least=rounds, most=rounds)
        )
    return {
        name: spread(tuple(us / CALLS for us in times_us))
        for name, times_us in zip(bindings, timing.times_us, strict=True)
    }


if __name__ == "__main__":
    main()
