"""Measures routed attention on Hopper: the selection alone, and the whole, against dense heads, ours and cuDNN's.

    python -m benchmarks.gpu_routing [--rounds N] [--rows NAME,...] [--results FOLDER]

B = 1, bfloat16, random inputs, all heads alike; all calls of a row in turn, from cold caches, on the same tensors.
Random inputs have about as much attention everywhere, so that a share of it is in about as many of the blocks.
Selection looks at every 8th key without values: ideally that takes a sixteenth of the dense time for one look, and it
looks twice. `ideal` of a routed row is the selection and the kept share of the dense time. Routed outputs are compared
with the reference first, with the lists that the device chose, and those with what they are to hold.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from torch.nn.attention import SDPBackend

from benchmarks.gpu_prefill import CHECKED_ROWS, checked, poisoned, relative_error, sdpa, space
from benchmarks.gpu_timing import ceilings, time_gpu
from benchmarks.record import RESULTS, paired, save, spread
from hcompile.codegen.triton_gpu.heads import HeadOrders
from hcompile.codegen.triton_gpu.hopper_prefill import bind
from hcompile.codegen.triton_gpu.machine import this_gpu
from hcompile.codegen.triton_gpu.route import Router
from hcompile.lists import Lists, listed_blocks
from hcompile.patterns import UNBOUNDED
from hcompile.patterns.blocks import EVERY_KEY, LIST_BLOCK, LIST_QUERIES, WHOLE
from hcompile.reference import attention_reference
from hcompile.routing import block_shares
from hcompile.schedules.templates import hopper_prefill

SHARES = (200, 500, 900)
"""Thousandths of the attention that heads want."""
LOOKS = 2
LARGEST_LACK = 4e-3
"""Of the attention that is wanted: weights are rounded by 2 ** -11, and sums of as many as here by little more."""


@dataclass(frozen=True)
class Row:
    """One length of one kind of heads."""

    name: str
    length: int
    heads: int
    kv_heads: int
    head_dim: int


ROWS = (
    Row("16k", 16384, 32, 8, 128),
    Row("64k", 65536, 32, 8, 128),
    Row("8k-d64", 8192, 6, 2, 64),
    Row("32k-d64", 32768, 6, 2, 64),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="default 9")
    parser.add_argument("--rows", default="", help="names, all by default")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    measured: dict[str, Any] = {"ceilings": ceilings(), "rows": []}
    click.echo(measured["ceilings"])
    for row in ROWS:
        if not options.rows or row.name in options.rows.split(","):
            measured["rows"].append(measure(row, options.rounds))
            click.echo(summary(measured["rows"][-1]))
    click.echo(save("gpu-routing", this_gpu(), measured, options.results))


def measure(row: Row, rounds: int) -> dict[str, Any]:
    q, k, v = (
        torch.randn(1, row.length, count, row.head_dim, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
        for count in (row.heads, row.kv_heads, row.kv_heads)
    )
    scale = row.head_dim**-0.5
    dense_kernel = bind(space(hopper_prefill.NAME, row.head_dim).default())
    kernel, router = bind(hopper_prefill.list_schedule(row.head_dim)), Router()
    params = {share: parameters(row, 0, share) for share in SHARES}
    orders, dense = HeadOrders(), parameters(row, UNBOUNDED, 0)

    def selection(share: int) -> Lists:
        given = params[share]
        order = orders.of(given)
        return router(("selection", share), q, k, given, given, order, 0, scale, True)

    def estimate() -> torch.Tensor:
        given = params[SHARES[0]]
        return router.shares("estimate", q, k, given, given, orders.of(given), 0, scale, True)

    calls: dict[str, Callable[[], object]] = {
        "dense": partial(dense_kernel, q, k, v, None, dense, 0, scale, True),
        "cudnn": partial(sdpa, SDPBackend.CUDNN_ATTENTION, q, k, v, True),
        "estimate": estimate,
        "selection": partial(selection, SHARES[1]),
    }
    kept, errors, lacks = {}, {}, {}
    for share in SHARES:
        lists = selection(share)
        attend = partial(kernel, q, k, v, None, params[share], 0, scale, True)
        calls[f"routed {share}"] = attend
        calls[f"attention alone {share}"] = partial(attend, *lists)
        kept[share] = kept_pairs(lists, row.length)
        errors[share] = checked(error_of(poisoned(attend, q), q, k, v, params[share], lists))
        lacks[share] = lack(lists, q, k, share, scale)
    times_us = time_gpu(calls, rounds)
    middle = {name: median(each) for name, each in times_us.items()}
    over_dense = {
        name: spread(paired(each, times_us["dense"]), 4) for name, each in times_us.items() if name != "dense"
    }
    return {
        "name": row.name,
        "length": row.length,
        "heads": [row.heads, row.kv_heads, row.head_dim],
        "times_us": {name: spread(each) for name, each in times_us.items()},
        "over_dense": over_dense,
        "ideal_selection": [1 / (2 * EVERY_KEY), LOOKS / (2 * EVERY_KEY)],
        "kept": kept,
        "ideal_routed": {
            share: round(kept[share] + middle["selection"] / middle["dense"], 4) for share in SHARES
        },
        "errors": errors,
        "lacks": lacks,
    }


def parameters(row: Row, window: int, sinks: int) -> torch.Tensor:
    """Return the operator's parameters where all heads are alike."""
    return torch.tensor([[window, sinks]] * row.heads, dtype=torch.int32, device="cuda")


def kept_pairs(lists: Lists, length: int) -> float:
    """Return the share of causal tiles of queries by blocks of keys that is read: what the attention computes."""
    tiles = length // LIST_QUERIES
    every = sum((tile + 1) * LIST_QUERIES // LIST_BLOCK for tile in range(tiles))
    return round(int(lists[0].sum()) / (lists[0].shape[1] * every), 4)


def checked_blocks(length: int) -> tuple[int, ...]:
    """Return the first query of some blocks: at the start, in the middle, at the end."""
    return 0, length // 2 // LIST_BLOCK * LIST_BLOCK, length - CHECKED_ROWS


def error_of(
    out: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, params: torch.Tensor, lists: Lists
) -> float:
    """Return the largest relative error of some rows against the reference in float64, which reads the same lists."""
    worst = 0.0
    for first in checked_blocks(q.shape[2]):
        rows, end = slice(first, first + CHECKED_ROWS), first + CHECKED_ROWS
        tile = slice(first // LIST_QUERIES, first // LIST_QUERIES + 1)
        wanted = attention_reference(
            q[:, :, rows].double(), k[:, :, :end].double(), v[:, :, :end].double(), None, params, first,
            q.shape[3] ** -0.5, True, *of_keys((lists[0][:, :, tile], lists[1][:, :, tile]), end),
            first_row=first % LIST_QUERIES,
        )  # fmt: skip
        worst = max(worst, relative_error(out[:, :, rows], wanted))
    return worst


def of_keys(lists: Lists, end: int) -> Lists:
    """Return lists without the blocks of keys from `end` on, which the last queries of a tile see and others do not."""
    count, index = lists
    here = torch.arange(index.shape[-1], device=index.device) < count[..., None]
    return (here & (index // 4 < end // LIST_BLOCK)).sum(-1, dtype=torch.int32), index


def lack(lists: Lists, q: torch.Tensor, k: torch.Tensor, share: int, scale: float) -> float:
    """Return how much less than the share some queries' blocks hold of the attention that is estimated in float64.

    Raises:
        AssertionError: it is more than `LARGEST_LACK` of it.
    """
    worst, group = 0.0, q.shape[1] // k.shape[1]
    read = listed_blocks(lists, k.shape[2])
    for first in checked_blocks(q.shape[2]):
        end, at = first + LIST_BLOCK, first // LIST_BLOCK
        queries, keys = q[:, ::group, first:end].double(), k[:, :, :end].double()
        shares = block_shares(queries, keys, None, first, scale, True, every_key=EVERY_KEY)[:, :, 0]
        held = (shares * read[:, ::group, at, : shares.shape[-1]]).sum(-1)
        worst = max(worst, float((share / WHOLE - held / shares.sum(-1)).max()))
    assert worst <= LARGEST_LACK, f"lists hold {worst:.1e} less than {share / WHOLE}"
    return worst


def summary(row: dict[str, Any]) -> str:
    """Return one line for people."""
    over = {name: each["median"] for name, each in row["over_dense"].items()}
    one, two = row["ideal_selection"]
    routed = "; ".join(
        f"share {share / WHOLE} keeps {row['kept'][share]:.3f}: {over[f'routed {share}']:.3f} "
        f"(ideal {row['ideal_routed'][share]:.3f}, attention alone {over[f'attention alone {share}']:.3f})"
        for share in SHARES
    )
    return (
        f"{row['name']}: dense {row['times_us']['dense']['median'] / 1000:.2f} ms; of it cudnn {over['cudnn']:.3f}, "
        f"selection {over['selection']:.4f} (ideal {one:.4f} for one look, {two:.4f} for two; estimate "
        f"{over['estimate']:.4f}); {routed}; error {max(row['errors'].values()):.1e}"
    )


if __name__ == "__main__":
    main()
