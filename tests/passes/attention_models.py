"""Small attention modules, and programs exported from them with batch and length dynamic."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from hcompile.program import Program

WIDTH, HEADS, HEAD_DIM = 32, 4, 8

Attend = Callable[..., Tensor]


class Projected(nn.Module):
    """Projections around `attend(q, k, v, *rest)`: q `[B, 4, S, 8]`, k and v `[B, kv_heads, S, 8]`."""

    def __init__(self, attend: Attend, kv_heads: int = HEADS) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.attend = attend
        self.kv_heads = kv_heads
        self.q = nn.Linear(WIDTH, HEADS * HEAD_DIM)
        self.k = nn.Linear(WIDTH, kv_heads * HEAD_DIM)
        self.v = nn.Linear(WIDTH, kv_heads * HEAD_DIM)
        self.o = nn.Linear(HEADS * HEAD_DIM, WIDTH)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, length, _ = x.shape
        q = self.q(x).view(batch, length, HEADS, HEAD_DIM).transpose(1, 2)
        k = self.k(x).view(batch, length, self.kv_heads, HEAD_DIM).transpose(1, 2)
        v = self.v(x).view(batch, length, self.kv_heads, HEAD_DIM).transpose(1, 2)
        out = self.attend(q, k, v) if mask is None else self.attend(q, k, v, mask)
        projected: Tensor = self.o(out.transpose(1, 2).contiguous().view(batch, length, HEADS * HEAD_DIM))
        return projected


def masked(rule: Callable[[Tensor, Tensor], Tensor]) -> Attend:
    """Return fused attention whose mask is a rule of query and key positions."""

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        position = torch.arange(q.shape[2])
        return F.scaled_dot_product_attention(q, k, v, attn_mask=rule(position[:, None], position[None, :]))

    return attend


def causal_rule(query: Tensor, key: Tensor) -> Tensor:
    return key <= query


def hidden(batch: int, length: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return random hidden states `[B, S, 32]`."""
    return torch.randn(batch, length, WIDTH, generator=torch.Generator().manual_seed(batch * length)).to(
        dtype
    )


def exported(module: nn.Module, *example: Tensor, longest: int = 4096, batch_axis: int = 0) -> Program:
    """Export with the first two dimensions of every input dynamic: batch up to 64, and length."""
    sizes = {batch_axis: Dim("batch", min=1, max=64), 1 - batch_axis: Dim("length", min=1, max=longest)}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*LeafSpec", category=FutureWarning)
        program = torch.export.export(
            module.eval(), example, dynamic_shapes=(sizes,) * len(example), strict=False
        )
    return Program.from_exported(program)


def stacked(*attends: Attend, kv_heads: int = HEADS) -> nn.Sequential:
    """Return layers, one for each way of attending; a layer is named after its place."""
    return nn.Sequential(*(Projected(attend, kv_heads) for attend in attends))


def operators(program: Program) -> list[str]:
    """Return the names of the operators that a program calls, in order."""
    return [
        node.target._opname
        for node in program.graph.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    ]


def reasons(program: Program) -> list[str]:
    """Return why attention was left as it was."""
    return [entry.reason for entry in program.left]


def largest_difference(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """Return the largest difference of two lists of outputs."""
    return max(float((a - b).abs().max()) for a, b in zip(one, other, strict=True))
