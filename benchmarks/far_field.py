"""What linear far fields add to the heads of one node, beside torch's operators for them and dense attention.

    python -m benchmarks.far_field [--target cpu|cuda] [--length 8192,16384] [--dtype float32] [--rounds 9]

The node has the shape of llama-code's: six query heads, two KV heads of 64. Its heads see a window of 64 and 16 sinks;
with a far field they see the rest too. All calls run in turn. The ideal beside them copies as many bytes as far fields
have to move on a CPU: queries and outputs once, keys and values once a head, and the outputs back.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
import torch.nn.functional as F

from benchmarks.record import RESULTS, paired, save, spread
from hcompile.cli.options import Integers
from hcompile.codegen import get_backend
from hcompile.codegen.backend import Backend
from hcompile.codegen.registry import TARGETS
from hcompile.far_field import FarFields, replace_far_heads
from hcompile.patterns import Linear
from hcompile.patterns.linear import FEATURES
from hcompile.tuning.timing import Rounds, graph_clock, time_calls

HEADS, KV_HEADS, HEAD_DIM = 6, 2, 64
HEAD = Linear(64, 16)


def measure(backend: Backend, dtype: str, length: int, rounds: int) -> dict[str, Any]:
    """Time a node of linear heads without and with their far fields, in turn with what they are compared to."""
    device, scale = backend.torch_device(), HEAD_DIM**-0.5
    group = HEADS // KV_HEADS
    schedule = backend.safe_schedule(dtype, HEAD_DIM)
    kernel = backend.load(backend.build(schedule, dtype, HEAD_DIM, group=group, causal=True))
    q, k, v = (
        torch.randn(1, length, heads, HEAD_DIM, device=device).to(getattr(torch, dtype)).transpose(1, 2)
        for heads in (HEADS, KV_HEADS, KV_HEADS)
    )
    params = torch.tensor([HEAD.params()] * HEADS, dtype=torch.int32, device=device)
    maps = 0.25 * torch.randn(HEADS, 2, FEATURES, HEAD_DIM + 1, device=device)
    far = FarFields(maps, torch.ones(HEADS, dtype=torch.bool, device=device))
    near = partial(kernel, q, k, v, None, params, 0, scale, True)
    out, moved, target = near(), torch.cat([q, q, q, q], dim=1), torch.cat([q, q, q, q], dim=1)
    calls: dict[str, Callable[[], torch.Tensor]] = {
        "near": near,
        "near and far": partial(near, far=far),
        "near and far by torch": partial(replace_far_heads, out, q, k, v, None, params, far, 0, scale),
        "dense": partial(F.scaled_dot_product_attention, q, k, v, is_causal=True, enable_gqa=True),
        "bytes moved": partial(target.copy_, moved),
    }
    with torch.inference_mode():
        torch.testing.assert_close(
            calls["near and far"](), calls["near and far by torch"](), rtol=2e-2, atol=2e-2
        )
        clock = graph_clock(device.type)
        times_us = dict(
            zip(calls, time_calls(list(calls.values()), Rounds(rounds, rounds), clock).times_us, strict=True)
        )
    added = [
        (both - alone) / HEADS for both, alone in zip(times_us["near and far"], times_us["near"], strict=True)
    ]
    return {
        "length": length,
        "times_us": {name: spread(each) for name, each in times_us.items()},
        "far_us_a_head": spread(added),
        "over_torch": spread(paired(times_us["near and far by torch"], times_us["near and far"]), 3),
        "over_dense": spread(paired(times_us["dense"], times_us["near and far"]), 3),
    }


@click.command()
@click.option("--target", type=click.Choice(sorted(TARGETS)), default="cpu", show_default=True)
@click.option("--dtype", default="float32", show_default=True, help="Of queries, keys and values.")
@click.option("--length", "lengths", type=Integers(least=1), default=(8192, 16384), help="Tokens.")
@click.option("--rounds", type=click.IntRange(min=3), default=9, show_default=True, help="Of timing.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the record.")
def main(target: str, dtype: str, lengths: tuple[int, ...], rounds: int, output: Path) -> None:
    """Time linear far fields on this machine."""
    backend = get_backend(TARGETS[target])
    rows = [measure(backend, dtype, length, rounds) for length in lengths]
    for row in rows:
        times = ", ".join(f"{name} {each['median'] / 1000:.2f}" for name, each in row["times_us"].items())
        click.echo(
            f"{row['length']} tokens: {times} ms; a far field adds {row['far_us_a_head']['median']:.0f} us a head, "
            f"{row['over_torch']['median']:.1f}x torch's operators, {row['over_dense']['median']:.1f}x dense"
        )
    measured = {"dtype": dtype, "heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM}
    measured["pattern"] = HEAD.to_json()
    click.echo(save("far-field", backend.device(), {**measured, "rows": rows}, output))


if __name__ == "__main__":
    main()
