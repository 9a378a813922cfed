"""Attention with a gradient whose cost follows the pattern: local heads touch the keys of their window only.

The operator's own gradient recomputes every pair. Taylor scores need the gradient of hybrids at full length, where
that would dominate the whole policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from hcompile.patterns import Dense, Pattern
from hcompile.site import Site

_LEAST_BLOCK, _LARGEST_BLOCK = 256, 1024


def attend(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, patterns: Sequence[Pattern], site: Site
) -> torch.Tensor:
    """Return softmax(scale * Q K^T on the visible pairs) V, differentiable in q, k and v.

    Args:
        q: `[B, Hq, S, D]`. k, v: `[B, Hkv, S, D]`. Every key is valid, and the first query is at position 0.
        patterns: one per query head.

    Returns:
        `[B, Hq, S, D]`, laid out as `[B, S, Hq, D]` in memory, as the operator's output is.
    """
    order: list[int] = []
    outs = []
    for pattern in dict.fromkeys(patterns):
        heads = [head for head, its in enumerate(patterns) if its == pattern]
        part = (
            _heads(q, heads),
            _heads(k, [h // site.group for h in heads]),
            _heads(v, [h // site.group for h in heads]),
        )
        if pattern == Dense():
            outs.append(F.scaled_dot_product_attention(*part, is_causal=site.causal, scale=site.scale))
        else:
            outs.append(_Local.apply(*part, pattern, site))  # type: ignore[no-untyped-call]
        order += heads
    out = _heads(torch.cat(outs, dim=1), [order.index(head) for head in range(len(order))])
    return out.transpose(1, 2).contiguous().transpose(1, 2)


def _heads(value: torch.Tensor, heads: list[int]) -> torch.Tensor:
    """Pick heads of `[B, H, S, D]`; unlike indexing with a list, this has a fast gradient."""
    return value if heads == list(range(value.shape[1])) else value.index_select(1, torch.tensor(heads))


@dataclass(frozen=True, slots=True)
class _Block:
    """Some queries, and the keys that they see: the first `sinks` ones and a range.

    Attributes:
        visible: bool `[queries, keys]`, over the sinks and then the range.
    """

    queries: slice
    sinks: slice
    near: slice
    visible: torch.Tensor


def _blocks(pattern: Pattern, length: int, causal: bool) -> Iterator[_Block]:
    window, sinks = pattern.params()
    size = min(max(window, _LEAST_BLOCK), _LARGEST_BLOCK)
    start = torch.zeros((), dtype=torch.int64)
    for first in range(0, length, size):
        last = min(length, first + size)
        low = max(0, first - window + 1)
        high = last if causal else min(length, last + window - 1)
        if low < sinks:
            # The sinks reach into the window, or (in bidirectional attention) past it: one range holds both.
            low, high = 0, high if causal else max(high, min(sinks, length))
        far = min(sinks, low)
        keys = torch.cat([torch.arange(far), torch.arange(low, high)])
        position = torch.arange(first, last)[:, None]
        visible = pattern.visible(position, keys, start)
        if causal:
            visible = visible & (keys <= position)
        yield _Block(slice(first, last), slice(0, far), slice(low, high), visible)


def _seen(value: torch.Tensor, block: _Block) -> torch.Tensor:
    return torch.cat([value[:, :, block.sinks], value[:, :, block.near]], dim=2)


class _Local(torch.autograd.Function):
    """Heads that share one local pattern, block by block; the gradient computes each block again."""

    @staticmethod
    def forward(
        ctx: Any, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pattern: Pattern, site: Site
    ) -> torch.Tensor:
        ctx.save_for_backward(q, k, v)
        ctx.pattern, ctx.site = pattern, site
        return torch.cat(
            [
                _softmax_av(q[:, :, block.queries], _seen(k, block), _seen(v, block), block, site)
                for block in _blocks(pattern, q.shape[2], site.causal)
            ],
            dim=2,
        )

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        q, k, v = ctx.saved_tensors
        grad_q, grad_k, grad_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for block in _blocks(ctx.pattern, q.shape[2], ctx.site.causal):
            inputs = [
                part.detach().requires_grad_()
                for part in (q[:, :, block.queries], _seen(k, block), _seen(v, block))
            ]
            with torch.enable_grad():
                out = _softmax_av(inputs[0], inputs[1], inputs[2], block, ctx.site)
            block_q, block_k, block_v = torch.autograd.grad(out, inputs, grad[:, :, block.queries])
            grad_q[:, :, block.queries] = block_q
            for whole, part in ((grad_k, block_k), (grad_v, block_v)):
                far = block.sinks.stop
                whole[:, :, block.sinks] += part[:, :, :far]
                whole[:, :, block.near] += part[:, :, far:]
        return grad_q, grad_k, grad_v, None, None


def _softmax_av(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, block: _Block, site: Site) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=block.visible, scale=site.scale)
