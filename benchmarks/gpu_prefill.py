"""Measures prefill attention on a GPU: ours on Hopper against SDPA (flash, cuDNN), FlashAttention-4 and FlexAttention.

    python -m benchmarks.gpu_prefill [--rounds N] [--rows NAME,...] [--results FOLDER]

B = 1, 32 query and 8 KV heads, bfloat16; all calls of a row in turn, from cold caches, on the same tensors. Rates
count visited pairs, 4 * D flops a pair and head; `tile_exact` is our rate over all pairs of the tiles that were
computed, what the rate would be if no edge of a tile were hidden. Every kernel of ours is compared with the reference
first, on rows at the start, at the end and across a tile's edge. Of our schedules the best in the row counts; all are
recorded. FlexAttention is compiled. FlashAttention-4 takes part where it is installed; it has windows but no sinks, so
`fa4, no sinks` computes fewer pairs than the others of its row, and its rate counts those.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import BlockMask, flex_attention

from benchmarks.gpu_timing import ceilings, time_gpu
from benchmarks.record import RESULTS, paired, save, spread
from hcompile.codegen.flash_attn_4 import backend as fa4
from hcompile.codegen.triton_gpu.ahead import problem_of
from hcompile.codegen.triton_gpu.hopper_prefill import bind
from hcompile.codegen.triton_gpu.machine import this_gpu
from hcompile.lists import Lists, lists_of
from hcompile.patterns import Dense, Local, Pattern
from hcompile.patterns.blocks import LIST_BLOCK
from hcompile.reference import attention_reference
from hcompile.schedules import Schedule, Space
from hcompile.schedules.template import get_template
from hcompile.schedules.templates import hopper_prefill
from hcompile.schedules.templates.gpu_tiles import tile_pairs

HEADS, KV_HEADS = 32, 8
BLOCK = 128
CHECKED_ROWS = 64
NO_SINKS = "fa4, no sinks"
LARGEST_ERROR = 4e-3
"""Of |out - reference| / |reference| of each head. Rounding the output to bfloat16 is within 2 ** -8, and 2 ** -8 /
sqrt(3) = 2.3e-3 of the norm; rounding the weights, whose errors cancel over hundreds of keys, adds little."""


@dataclass(frozen=True)
class Row:
    """One line of the table: a pattern for all heads, or a share of key blocks a head."""

    name: str
    length: int
    pattern: Pattern | None
    head_dim: int = 128
    share: float = 0.0


ROWS = (
    Row("dense-16k", 16384, Dense()),
    Row("dense-64k", 65536, Dense()),
    Row("window-1024-16k", 16384, Local(1024, 128)),
    Row("window-1024-64k", 65536, Local(1024, 128)),
    Row("window-1024-128k", 131072, Local(1024, 128)),
    Row("window-4096-64k", 65536, Local(4096, 128)),
    Row("window-512-64k", 65536, Local(512, 64)),
    Row("lists-16k", 16384, None, share=0.1),
    Row("lists-64k", 65536, None, share=0.1),
    Row("dense-16k-d64", 16384, Dense(), 64),
    Row("window-1024-64k-d64", 65536, Local(1024, 128), 64),
    Row("window-512-64k-d64", 65536, Local(512, 64), 64),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9, help="default 9")
    parser.add_argument("--rows", default="", help="names, all by default")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_grad_enabled(False)
    chosen = [row for row in ROWS if not options.rows or row.name in options.rows.split(",")]
    measured: dict[str, Any] = {"ceilings": ceilings(), "rows": [], "mixed": []}
    if fa4.installed():
        measured["fa4"] = fa4.BACKEND.versions()
    click.echo(measured["ceilings"])
    for row in chosen:
        measured["rows"].append(measure(row, options.rounds))
        click.echo(summary(measured["rows"][-1]))
    if not options.rows:
        for length in (8192, 65536):
            measured["mixed"].append(measure_mixed(length, options.rounds))
            click.echo(measured["mixed"][-1])
    click.echo(save("gpu-prefill", this_gpu(), measured, options.results))


def schedules(row: Row) -> dict[str, Schedule]:
    """Return the schedules that are timed for a row, the space's own candidates; tuning is to choose among more."""
    candidates = space(hopper_prefill.NAME, row.head_dim).starts()
    # Lists are of blocks of 64 keys.
    return {
        f"{each['keys']} keys, {each['stages']} stages": each
        for each in candidates
        if row.pattern is not None or each["keys"] == 64
    }


def space(template: str, head_dim: int) -> Space:
    """Return the schedules of a template on this device."""
    major, minor = torch.cuda.get_device_capability()
    return get_template(template).space(problem_of("bfloat16", head_dim, 10 * major + minor))


def measure(row: Row, rounds: int) -> dict[str, Any]:
    q, k, v = inputs(row.length, row.head_dim)
    params = heads([row.pattern] * HEADS)
    lists: tuple[()] | Lists = ()
    if row.pattern is None:
        lists, mask, pairs = block_lists(row.length, row.share)
    else:
        mask = window_mask(row.length, row.pattern)
        pairs = HEADS * row.pattern.visited_pairs(row.length, row.length, causal=True)
    ours = {
        name: partial(
            bind(schedule), q, k, v, None, params, 0, row.head_dim**-0.5, True, *(lists or (None, None))
        )
        for name, schedule in schedules(row).items()
    }
    calls: dict[str, Callable[[], torch.Tensor]] = dict(ours)
    if isinstance(row.pattern, Dense):
        calls["flash"] = partial(sdpa, SDPBackend.FLASH_ATTENTION, q, k, v, True)
        calls["cudnn"] = partial(sdpa, SDPBackend.CUDNN_ATTENTION, q, k, v, True)
    bare: Pattern | None = None
    if isinstance(row.pattern, Local) and fa4.installed():
        bare = Local(row.pattern.window)
        calls[NO_SINKS] = partial(flash_attention_4, q, k, v, (row.pattern.window - 1, 0))
    elif row.pattern is not None and fa4.installed():
        calls["fa4"] = partial(flash_attention_4, q, k, v, (None, None))
    torch.compiler.reset()
    flex = torch.compile(flex_attention, dynamic=False)
    calls["flex"] = partial(flex, q, k, v, block_mask=mask, enable_gqa=True)
    if lists:
        # FlexAttention reads the same blocks: the two must agree.
        peer = flex(q, k, v, block_mask=mask, enable_gqa=True)
        errors = {name: checked(relative_error(poisoned(call, q), peer)) for name, call in ours.items()}
    else:
        errors = {name: check(poisoned(call, q), q, k, v, params) for name, call in ours.items()}
    example = next(iter(ours.values()))()
    for name, call in calls.items():
        if name not in ours and name != NO_SINKS:
            assert relative_error(call(), example) <= 2 * LARGEST_ERROR, name
    pairs_of = dict.fromkeys(calls, pairs)
    if bare is not None:
        check(poisoned(calls[NO_SINKS], q), q, k, v, heads([bare] * HEADS))
        pairs_of[NO_SINKS] = HEADS * bare.visited_pairs(row.length, row.length, causal=True)
    times_us = time_gpu(calls, rounds)
    best = min(ours, key=lambda name: median(times_us[name]))
    schedule = schedules(row)[best]
    if lists:
        computed = int(lists[0].sum()) * schedule["rows"] * schedule["keys"]
    elif row.pattern is not None:
        computed = HEADS * tile_pairs(schedule, row.pattern, row.length, row.length, causal=True)
    return {
        "name": row.name,
        "best": best,
        "schedules": {name: each.to_json() for name, each in schedules(row).items()},
        "errors": errors,
        "times_us": {name: spread(each) for name, each in times_us.items()},
        "tflops": {
            name: round(4 * row.head_dim * pairs_of[name] / median(each) / 1e6, 1)
            for name, each in times_us.items()
        },
        "tile_exact_tflops": round(4 * row.head_dim * computed / median(times_us[best]) / 1e6, 1),
        "best_over": {
            name: spread(paired(each, times_us[best]), 3)
            for name, each in times_us.items()
            if name not in ours
        },
    }


def measure_mixed(length: int, rounds: int) -> dict[str, Any]:
    """Time nodes with 4 of 32 heads dense, against that many heads' share of an all-dense and an all-window node."""
    q, k, v = inputs(length, 128)
    window, dense = Local(512, 64), Dense()
    plans: dict[str, list[Pattern]] = {
        "dense": [dense] * HEADS,
        "window": [window] * HEADS,
        "scattered": [dense if head in (0, 9, 18, 27) else window for head in range(HEADS)],
        "grouped": [dense if head < 4 else window for head in range(HEADS)],
    }
    kernel = bind(space(hopper_prefill.NAME, 128).default())
    params = {name: heads(plan) for name, plan in plans.items()}
    calls: dict[str, Callable[[], Any]] = {
        name: partial(kernel, q, k, v, None, each, 0, 128**-0.5, True) for name, each in params.items()
    }
    errors = {name: check(poisoned(call, q), q, k, v, params[name]) for name, call in calls.items()}
    times_us = time_gpu(calls, rounds)
    return {
        "length": length,
        "errors": errors,
        "times_us": {name: spread(each) for name, each in times_us.items()},
        "of_ideal": {
            name: spread(
                [
                    (4 * d + 28 * w) / 32 / t
                    for d, w, t in zip(times_us["dense"], times_us["window"], times_us[name], strict=True)
                ],
                3,
            )
            for name in ("scattered", "grouped")
        },
    }  # fmt: skip


def inputs(length: int, head_dim: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return q, k, v as models have them: memory `[B, S, H, D]`."""
    q, k, v = (
        torch.randn(1, length, count, head_dim, device="cuda", dtype=torch.bfloat16).transpose(1, 2)
        for count in (HEADS, KV_HEADS, KV_HEADS)
    )
    return q, k, v


def heads(patterns: Sequence[Pattern | None]) -> torch.Tensor:
    """Return the operator's parameters; None is a head that reads a list."""
    return torch.tensor(
        [(0, 0) if pattern is None else pattern.params() for pattern in patterns],
        dtype=torch.int32,
        device="cuda",
    )


def sdpa(
    backend: SDPBackend, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool
) -> torch.Tensor:
    with sdpa_kernel(backend):
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)


def flash_attention_4(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, window_size: tuple[int | None, int | None]
) -> torch.Tensor:
    """Call it as its users do: causal, everything else its own choice. `window_size`: keys to the left and right."""
    from flash_attn.cute import flash_attn_func

    tokens_first = (each.transpose(1, 2) for each in (q, k, v))
    out: torch.Tensor = flash_attn_func(*tokens_first, causal=True, window_size=window_size)[0]
    return out.transpose(1, 2)


def check(
    out: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, params: torch.Tensor
) -> float:
    """Return the largest relative error of some rows against the reference in float64.

    Raises:
        AssertionError: it is larger than `LARGEST_ERROR`.
    """
    length, worst = q.shape[2], 0.0
    for first in (0, length // 2 - CHECKED_ROWS // 2, length - CHECKED_ROWS):
        rows = slice(first, first + CHECKED_ROWS)
        end = first + CHECKED_ROWS
        wanted = attention_reference(
            q[:, :, rows].double(), k[:, :, :end].double(), v[:, :, :end].double(), None, params, first,
            q.shape[3] ** -0.5, True,
        )  # fmt: skip
        worst = max(worst, relative_error(out[:, :, rows], wanted))
    return checked(worst)


def checked(error: float) -> float:
    assert error <= LARGEST_ERROR, f"the kernel is wrong: relative error {error:.2e}"
    return error


def poisoned(call: Callable[[], torch.Tensor], q: torch.Tensor) -> torch.Tensor:
    """Return a call's output; its memory was NaN before, so that what is not written shows."""
    poison = torch.full_like(q, float("nan"))
    del poison
    out = call()
    assert not out.isnan().any(), "the kernel left some of its output unwritten"
    return out


def relative_error(out: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return the largest of the heads' errors, relative to the head's norm: `[B, H, S, D]`."""
    wanted = wanted.double()
    return float(((out.double() - wanted).norm(dim=(2, 3)) / wanted.norm(dim=(2, 3))).max())


def window_mask(length: int, pattern: Pattern) -> BlockMask:
    """Return FlexAttention's mask of a causal pattern, in blocks of `BLOCK`; what is wholly visible is marked so."""
    window, sinks = (min(value, length) for value in pattern.params())

    def seen(b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return (i >= j) & ((i - j < window) | (j < sinks))

    first = torch.arange(0, length, BLOCK, device="cuda")
    row, column = first[:, None], first[None, :]
    some = (column <= row) & ((row - column - (BLOCK - 1) < window) | (column < sinks))
    whole = (column < row) & ((row + BLOCK - 1 - column < window) | (column + BLOCK <= sinks))
    return block_mask(some & ~whole, whole, seen)


def block_mask(partly: torch.Tensor, whole: torch.Tensor, seen: Any) -> BlockMask:
    """Return FlexAttention's mask of block matrices `[..., Q blocks, KV blocks]`."""

    def listed(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        blocks = blocks.reshape(1, -1, *blocks.shape[-2:]).to(torch.int8)
        order = blocks.argsort(dim=-1, descending=True, stable=True).to(torch.int32)
        return blocks.sum(-1, dtype=torch.int32), order

    return BlockMask.from_kv_blocks(*listed(partly), *listed(whole), BLOCK_SIZE=BLOCK, mask_mod=seen)


def block_lists(length: int, share: float) -> tuple[Lists, BlockMask, int]:
    """Return our lists and FlexAttention's mask of random blocks of `BLOCK` x `BLOCK`, the diagonal among them."""
    tiles = length // BLOCK
    scores = torch.rand(HEADS, tiles, tiles, device="cuda")
    row, column = torch.arange(tiles, device="cuda")[:, None], torch.arange(tiles, device="cuda")[None, :]
    scores = scores.masked_fill(column >= row, -1.0)
    wanted = ((row + 1) * share).round().clamp(min=1).long() - 1
    rank = scores.argsort(dim=-1, descending=True).argsort(dim=-1)
    below = (rank < wanted) & (column < row)
    chosen = below | (column == row)
    parts = BLOCK // LIST_BLOCK
    lists = lists_of(chosen[None].repeat_interleave(parts, 2).repeat_interleave(parts, 3))

    def causal(b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return i >= j

    pairs = int(below.sum()) * BLOCK**2 + HEADS * tiles * (BLOCK * (BLOCK + 1) // 2)
    mask = block_mask(chosen & ~below, below, causal)
    return lists, mask, pairs


def summary(row: dict[str, Any]) -> str:
    """Return one line for people."""
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in row["tflops"].items())
    over = ", ".join(f"{each['median']:.2f}x {name}" for name, each in row["best_over"].items())
    exact = f"tile-exact {row['tile_exact_tflops']:.0f}"
    return f"{row['name']} ({row['best']}): TFLOP/s {rates}; {over}; {exact}; error {max(row['errors'].values()):.1e}"


if __name__ == "__main__":
    main()
