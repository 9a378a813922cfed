"""Whether a kernel computes the right thing: small awkward inputs against the float64 reference."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from hcompile.operator import Kernel
from hcompile.patterns import UNBOUNDED, Local, Pattern
from hcompile.reference import attention_reference
from hcompile.routing import route
from hcompile.workload import Workload

CHECK_LENGTHS = {"cpu": (237, 61), "cuda": (709, 61)}
"""By kind of device: longer than a few tiles and a multiple of none; and shorter than most tiles."""

_MOST_SINKS = 7

_EXP2_ERROR = 4e-7
"""Relative error that a kernel's own exponential may have."""

_ZERO = 1e-30
"""Where no key is seen the output is zero, exactly."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Error and tolerance at the element where the error comes closest to its tolerance, or passes it furthest."""

    max_err: float
    tolerance: float

    @property
    def right(self) -> bool:
        return self.max_err <= self.tolerance


def check(kernel: Kernel, workload: Workload, seed: int, device: str = "cpu") -> Verdict:
    """Compare a kernel with the reference on fresh inputs, and return the worst case.

    Every pattern of the workload takes part, under the workload's dtype, head size, grouping and causality; windows and
    sinks are cut, so that some queries see them apart. The lengths are ragged, one row is padded on the left and one
    wholly, and the queries are fewer than the keys in one case. The output's memory is NaN before the call, so that
    what a kernel does not write shows.

    Raises:
        RuntimeError: the kernel wrote to its inputs, or its output has a wrong shape or dtype.
    """
    generator = torch.Generator().manual_seed(seed)
    verdicts = []
    long, short = CHECK_LENGTHS[device]
    for queries, length in ((long, long), (short // 2, short)):
        for padded in (False, True):
            case = _Case(queries, length, padded, device)
            verdicts.append(_check_case(kernel, workload, case, generator))
    return max(verdicts, key=lambda verdict: verdict.max_err / verdict.tolerance)


@dataclass(frozen=True, slots=True)
class _Case:
    q_len: int
    kv_len: int
    padded: bool
    device: str


def _check_case(kernel: Kernel, workload: Workload, case: _Case, generator: torch.Generator) -> Verdict:
    q_len, kv_len, padded = case.q_len, case.kv_len, case.padded
    if workload.q_len < workload.kv_len:
        q_len = min(q_len, workload.q_len)  # A kernel for few queries may take no more.
    dtype = getattr(torch, workload.dtype)
    # Wide enough that some block of keys lies wholly inside a window; narrow enough that the padded row, which begins
    # late, has hidden keys between its sinks and its last windows.
    patterns = _few_heads(workload, kv_len // 5 if padded else kv_len * 5 // 8)
    group = workload.q_heads // workload.kv_heads
    batch, kv_heads = 3 if padded else 1, len(patterns) // group
    shapes = [(len(patterns), q_len), (kv_heads, kv_len), (kv_heads, kv_len)]
    q, k, v = (
        _random((batch, heads, length, workload.head_dim), dtype, generator).to(case.device)
        for heads, length in shapes
    )
    mask = None
    if padded:
        mask = torch.ones(batch, kv_len, dtype=torch.bool)
        mask[1, : kv_len // 3] = False
        mask[2] = False
        mask = mask.to(case.device)
    params = head_params(patterns).to(case.device)
    scale = workload.head_dim**-0.5
    kept = [tensor.clone() for tensor in (q, k, v)]
    offset = kv_len - q_len
    # Which blocks a head chooses turns on a rounding: the kernel is given those of the reference.
    lists = route(q.double(), k.double(), mask, params, offset, scale, workload.causal) or ()
    with poisoned_memory():
        out = kernel(q, k, v, mask, params, offset, scale, workload.causal, *lists)
    if out.shape != q.shape or out.dtype != q.dtype:
        raise RuntimeError(
            f"the kernel returned {tuple(out.shape)} of {out.dtype}, wanted {tuple(q.shape)} of {q.dtype}"
        )
    if not all(torch.equal(before, after) for before, after in zip(kept, (q, k, v), strict=True)):
        raise RuntimeError("the kernel wrote to its inputs")
    q, k, v = q.double(), k.double(), v.double()
    rest = (mask, params, offset, scale, workload.causal, *lists)
    wanted, spread = attention_reference(q, k, v, *rest), attention_reference(q, k, v.abs(), *rest)
    return compare(out, wanted, tolerance_of(q, k, wanted, spread, scale, dtype))


def tolerance_of(
    q: torch.Tensor,
    k: torch.Tensor,
    wanted: torch.Tensor,
    spread: torch.Tensor,
    scale: float,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return the error that each output element may have.

    A kernel computes in float32 (unit roundoff u) and rounds its weights and its output to `dtype`. A score is a dot
    product of D terms, wrong by at most (D + 2) u sum|q k|; a weight is relatively wrong by that much, by the
    exponential's error and by its own rounding; numerator and denominator add a rounding per term, which random signs
    keep at sqrt(keys). The output is a mean of values with such weights: it is wrong by twice the sum of these, times
    the same mean of |values|.

    Args:
        q, k: float64. `[B, Hq, Sq, D]` and `[B, Hkv, Sk, D]`.
        wanted, spread: the float64 reference for V and for |V|: `[B, Hq, Sq, D]`.
    """
    unit = torch.finfo(torch.float32).eps / 2
    keys, head_dim = k.shape[2], q.shape[3]
    absolute = q.abs().unflatten(1, (k.shape[1], -1)) @ k.abs().unsqueeze(2).transpose(-1, -2)
    score_error = (head_dim + 2) * unit * float(absolute.max()) * abs(scale)
    rounding = 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
    relative = score_error + _EXP2_ERROR + rounding + 2 * keys**0.5 * unit
    tolerance: torch.Tensor = 2 * relative * spread + rounding * wanted.abs() + _ZERO
    return tolerance


def compare(out: torch.Tensor, wanted: torch.Tensor, tolerance: torch.Tensor) -> Verdict:
    """Return the verdict over all elements; an output that is not finite is infinitely wrong."""
    error = (out.double() - wanted).abs()
    error = torch.where(out.isfinite(), error, float("inf"))
    ratio = (error / tolerance).flatten()
    worst = int(ratio.argmax())
    return Verdict(float(error.flatten()[worst]), float(tolerance.expand_as(wanted).flatten()[worst]))


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Fill all fresh tensors with NaN (the largest value for integers) while this is in effect."""
    # use_deterministic_algorithms would do too, but imports Inductor, which takes seconds.
    mode, settings = torch.get_deterministic_debug_mode(), torch.utils.deterministic
    fills = settings.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.set_deterministic_debug_mode("warn")
    settings.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(mode)
        settings.fill_uninitialized_memory = fills  # type: ignore[attr-defined]


def head_params(patterns: tuple[Pattern, ...]) -> torch.Tensor:
    """Return (window, sinks) of each head, int32 `[H, 2]`."""
    return torch.tensor([pattern.params() for pattern in patterns], dtype=torch.int32)


def _few_heads(workload: Workload, reach: int) -> tuple[Pattern, ...]:
    """Return each pattern of the workload once, repeated up to whole groups of query heads.

    Args:
        reach: the widest window.
    """
    patterns = [_cut(pattern, reach) for pattern, _ in workload.heads]
    group = workload.q_heads // workload.kv_heads
    total = -(-max(len(patterns), 2 * group) // group) * group
    return tuple(patterns[head % len(patterns)] for head in range(total))


def _cut(pattern: Pattern, reach: int) -> Pattern:
    window, sinks = pattern.params()
    if pattern.reads_lists or window == UNBOUNDED:
        return pattern
    return Local(min(window, reach), min(sinks, _MOST_SINKS))


def _random(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Return normal values of a logical shape `[B, H, S, D]`, laid out as `[B, S, H, D]`, as models have it."""
    batch, heads, length, head_dim = shape
    return torch.randn(batch, length, heads, head_dim, generator=generator).to(dtype).transpose(1, 2)
