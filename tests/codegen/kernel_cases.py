"""Attention calls for kernels, and how far a right kernel may be from the float64 reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hcompile.codegen.tvm_cpu.bind import load_kernel
from hcompile.codegen.tvm_cpu.build import build_kernel
from hcompile.lists import Lists, list_rules, listed_blocks, lists_of
from hcompile.operator import Kernel
from hcompile.patterns import UNBOUNDED
from hcompile.patterns.blocks import LIST_BLOCK
from hcompile.reference import attention_reference, of_all_heads, visible_pairs
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.template import Problem, get_template
from hcompile.schedules.templates.tvm_cpu_attention import NAME

DENSE = (UNBOUNDED, 0)
LISTED = (0, 500)


def schedule(dtype: str, head_dim: int, *, dot: bool = False, **values: int) -> Schedule:
    """Return the default schedule of an AVX-512 machine with some of its values replaced."""
    default = get_template(NAME).space(Problem(dtype, head_dim, 512, 32, dot)).default()
    return Schedule.of(NAME, dict(default.values) | values)


def build(folder: Path, plan: Schedule, dtype: str, head_dim: int) -> Kernel:
    return load_kernel(build_kernel(plan, dtype, head_dim, folder))


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a kernel."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    key_mask: torch.Tensor | None
    head_params: torch.Tensor
    q_offset: int
    scale: float
    causal: bool
    lists: Lists | tuple[None, None] = (None, None)

    def run(self, kernel: Kernel) -> torch.Tensor:
        rest = (self.key_mask, self.head_params, self.q_offset, self.scale, self.causal)
        return kernel(self.q, self.k, self.v, *rest, *self.lists)

    def with_lists(self, seed: int = 0) -> Call:
        """Return the call with random lists for its heads that read some, in blocks that are adjacent and not."""
        heads = len(list_rules(self.head_params))
        sizes = (-(-self.q.shape[2] // LIST_BLOCK), -(-self.k.shape[2] // LIST_BLOCK))
        generator = torch.Generator().manual_seed(seed)
        return replace(
            self, lists=lists_of(torch.rand(len(self.q), heads, *sizes, generator=generator) < 0.6)
        )


def make_call(
    heads: list[tuple[int, int]],
    q_len: int,
    kv_len: int,
    *,
    kv_heads: int | None = None,
    batch: int = 1,
    head_dim: int = 64,
    dtype: torch.dtype = torch.float32,
    causal: bool = True,
    q_offset: int | None = None,
    key_mask: torch.Tensor | None = None,
    spread: float = 1.0,
    seed: int = 0,
) -> Call:
    """Return a call with normal inputs laid out as `[B, S, H, D]`; the last query stands at the last key."""
    generator = torch.Generator().manual_seed(seed)

    def normal(count: int, length: int) -> torch.Tensor:
        return torch.randn(batch, length, count, head_dim, generator=generator).to(dtype).transpose(1, 2)

    q, k, v = (normal(len(heads), q_len), *(normal(kv_heads or len(heads), kv_len) for _ in range(2)))
    offset = kv_len - q_len if q_offset is None else q_offset
    params = torch.tensor(heads, dtype=torch.int32)
    return Call(q * spread, k, v, key_mask, params, offset, head_dim**-0.5, causal)


def assert_right(call: Call, out: torch.Tensor) -> None:
    """Assert that every element is as near to the float64 reference as its error analysis says.

    With u the unit roundoff of float32 and r that of the inputs' dtype (0 for float32): a score is a sum of D products,
    wrong by (D + 3) u sum|q k|; subtracting the peak and 2 ** x add 2 u |score| + 4e-7; weights may be rounded to the
    dtype. So each weight is wrong by a factor 1 + e, numerator and denominator by one more u per key, and the mean of
    the values by twice their sum times the mean of |values|. The result is rounded by r, or by u.
    """
    assert out.shape == call.q.shape and out.dtype == call.q.dtype
    q, k, v = call.q.double(), call.k.double(), call.v.double()
    rest = (call.key_mask, call.head_params, call.q_offset, call.scale, call.causal, *call.lists)
    wanted, mean = attention_reference(q, k, v, *rest), attention_reference(q, k, v.abs(), *rest)
    positions = torch.arange(q.shape[2]) + call.q_offset
    listed = None
    if call.lists[0] is not None:
        blocks = of_all_heads(listed_blocks(call.lists, k.shape[2]), call.head_params)
        listed = blocks[:, :, (positions - call.q_offset) // LIST_BLOCK]
    seen = visible_pairs(call.head_params, positions, k.shape[2], call.key_mask, call.causal, listed)
    keys = seen.sum(-1, keepdim=True)
    groups = q.shape[1] // k.shape[1]
    products = (q.abs() @ k.abs().repeat_interleave(groups, 1).transpose(-1, -2)).masked_fill(
        ~seen, 0
    ) * call.scale
    largest = products.amax(-1, keepdim=True) if k.shape[2] else torch.zeros_like(q[..., :1])
    unit = torch.finfo(torch.float32).eps / 2
    rounding = 0.0 if call.q.dtype == torch.float32 else torch.finfo(call.q.dtype).eps / 2
    weight = (q.shape[3] + 5) * unit * largest + 4e-7 + rounding
    tolerance = 2 * (weight + keys * unit) * mean + (rounding + 2 * unit) * wanted.abs()
    error = (out.double() - wanted).abs()
    assert torch.isfinite(out).all()
    assert (error <= tolerance).all(), (
        f"error {error.max():.2e}, tolerance there {tolerance[error == error.max()]}"
    )
