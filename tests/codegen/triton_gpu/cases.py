"""Calls that every GPU kernel must get right, and what comes of comparing one with the reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from hcompile.codegen.triton_gpu.ahead import problem_of
from hcompile.patterns import Dense, Local
from hcompile.reference import attention_reference
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.template import get_template

MIXED = (Dense(), Local(20, 5), Local(40), Local(7, 70))
"""A head that sees all, sinks far from the window, no sinks, and sinks that reach into the window."""
FIFTEEN = (MIXED * 4)[:15]


HOPPER = 90


def schedule(template: str, head_dim: int = 128, capability: int = HOPPER, **changes: int) -> Schedule:
    """Return the default schedule of a template on a GPU, with other values for some axes, legal or not."""
    default = get_template(template).space(problem_of("bfloat16", head_dim, capability)).default()
    return Schedule.of(template, {**dict(default.values), **changes})


@dataclass(frozen=True)
class Case:
    """One call: the last query stands at the last key.

    Attributes:
        mask: "" for none, "padding" for left and right padding, "holes" for a row with holes and one without a key.
        heads: one pattern a query head.
        fused: q, k and v are slices of one projection `[B, S, Hq + 2 Hkv, D]`.
    """

    name: str
    q_len: int
    kv_len: int
    heads: tuple[Any, ...] = MIXED
    kv_heads: int = 2
    head_dim: int = 16
    causal: bool = True
    mask: str = ""
    tokens_first: bool = True
    fused: bool = False


PREFILL = (
    Case("ragged", 150, 150),
    Case("bidirectional", 150, 150, causal=False),
    Case("after-a-cache", 50, 150),
    Case("padding", 150, 150, mask="padding"),
    Case("padding-bidirectional", 150, 150, mask="padding", causal=False),
    Case("holes", 150, 150, mask="holes"),
    Case("holes-bidirectional", 50, 150, mask="holes", causal=False),
    Case("head-of-24", 150, 150, head_dim=24),
    Case("heads-first", 150, 150, tokens_first=False),
    Case("fused", 150, 150, fused=True),
    Case("one-query", 1, 150),
    Case("shorter-than-a-tile", 3, 3),
    Case("one-head-a-group", 150, 150, kv_heads=4),
    Case("one-group", 150, 150, kv_heads=1),
    Case("windows-alone", 150, 150, heads=(Local(1),) * 2 + (Local(33, 1),) * 2),
)
DECODE = (
    Case("one-query", 1, 150),
    Case("one-query-bidirectional", 1, 150, causal=False),
    Case("five-queries", 5, 150),
    Case("five-queries-padding", 5, 150, mask="padding"),
    Case("padding", 1, 150, mask="padding"),
    Case("holes", 1, 150, mask="holes"),
    Case("holes-bidirectional", 5, 150, mask="holes", causal=False),
    Case("head-of-24", 1, 150, head_dim=24),
    Case("heads-first", 1, 150, tokens_first=False),
    Case("fused", 3, 150, fused=True),
    Case("windows-alone", 1, 150, heads=(Local(1),) * 2 + (Local(33, 1),) * 2),
    Case("shorter-than-a-block", 1, 3),
)

# Each with code of its own. Eight times as large they are heads of 64, 128 and 256.
PREFILL_SHAPES = (
    Case("groups-of-three", 60, 60, FIFTEEN, kv_heads=5, head_dim=8),
    Case("groups-of-five-padding", 60, 60, FIFTEEN, kv_heads=3, head_dim=32, mask="padding"),
)
DECODE_SHAPES = (
    Case("two-queries-groups-of-three", 2, 150, FIFTEEN, kv_heads=5),
    Case("three-queries-groups-of-five-padding", 3, 150, FIFTEEN, kv_heads=3, head_dim=32, mask="padding"),
    Case("sixteen-queries", 16, 150),
    Case("sixteen-queries-one-group-padding", 16, 150, kv_heads=1, head_dim=8, mask="padding"),
)
MOST_FEW = 16
"""Queries that a decode kernel takes: so few stay as many in a larger case."""


def error_of(kernel: Any, case: Case, seed: int, dtype: torch.dtype, device: str, scale: int = 1) -> float:
    """Return the error of a call with fresh random inputs.

    `scale` multiplies lengths, windows and head sizes: the interpreter is slow, and a GPU's tiles are large.
    """
    generator = torch.Generator().manual_seed(seed)
    q_len, kv_len, head_dim = (size * scale for size in (case.q_len, case.kv_len, case.head_dim))
    if case.q_len <= MOST_FEW and case.q_len < case.kv_len:
        q_len = case.q_len
    params = torch.tensor(
        [
            (window * scale if window < 2**20 else window, sinks * scale)
            for window, sinks in (pattern.params() for pattern in case.heads)
        ],
        dtype=torch.int32,
    )
    made = [
        torch.randn(shape, generator=generator).to(dtype) for shape in _shapes(case, q_len, kv_len, head_dim)
    ]
    mask = None
    if case.mask:
        mask = torch.ones(2, kv_len, dtype=torch.bool)
        mask[0, : kv_len // 11] = False
        mask[1, kv_len - kv_len // 15 :] = False
        if case.mask == "holes":
            mask[0, kv_len // 4 : kv_len // 3] = False
            mask[1] = False
    offset, softmax_scale = kv_len - q_len, head_dim**-0.5
    q, k, v = _queries_keys_values(case, q_len, [each.to(device) for each in made])
    there = None if mask is None else mask.to(device), params.to(device)
    # What the allocator gives out next holds no number.
    poison = torch.full_like(q, float("nan"))
    del poison
    out = kernel(q, k, v, *there, offset, softmax_scale, case.causal)
    q, k, v = _queries_keys_values(case, q_len, made)
    return relative_error(out, q, k, v, mask, params, offset, softmax_scale, case.causal)


def relative_error(
    out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    *rest: Any,
) -> float:
    """Return the largest error of an output against the reference in float64.

    Errors are relative to the mean of |V| that a query's weights give, which bounds what rounding can do to it.
    """
    q, k, v = q.double(), k.double(), v.double()
    wanted = attention_reference(q, k, v, mask, *rest)
    bound = attention_reference(q, k, v.abs(), mask, *rest)
    out = out.cpu().double()
    assert out.shape == wanted.shape and not out.isnan().any(), "the output has NaN or a wrong shape"
    return float(((out - wanted).abs() / (bound + 1e-30)).max())


def _shapes(case: Case, q_len: int, kv_len: int, head_dim: int) -> list[tuple[int, ...]]:
    """Return the shapes of the tensors that hold the queries, keys and values of a call."""
    sizes = [(q_len, len(case.heads)), (kv_len, case.kv_heads), (kv_len, case.kv_heads)]
    if case.fused:
        return [(2, kv_len, sum(heads for _, heads in sizes), head_dim)]
    if case.tokens_first:
        return [(2, length, heads, head_dim) for length, heads in sizes]
    return [(2, heads, length, head_dim) for length, heads in sizes]


def _queries_keys_values(case: Case, q_len: int, made: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return them as a kernel takes them, where they stand."""
    if case.fused:
        q, k, v = made[0].split((len(case.heads), case.kv_heads, case.kv_heads), dim=2)
        made = [q[:, q.shape[1] - q_len :], k, v]
    return [each.transpose(1, 2) for each in made] if case.tokens_first else made
