"""Attention with a gradient whose cost follows the pattern: local heads touch the keys of their window only.

The operator's own gradient recomputes every pair. Taylor scores need the gradient of hybrids at full length, where
that would dominate the whole policy.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from hcompile.patterns import Dense, Pattern
from hcompile.site import Site

_LEAST_BLOCK, _LARGEST_BLOCK = 128, 1024


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
    heads: list[torch.Tensor | None] = [None] * site.q_heads
    for pattern in dict.fromkeys(patterns):
        chosen = [head for head, its in enumerate(patterns) if its == pattern]
        readers = [head // site.group for head in chosen]
        part = (q[:, chosen], k[:, readers], v[:, readers])
        if pattern == Dense():
            out = F.scaled_dot_product_attention(*part, is_causal=site.causal, scale=site.scale)
        else:
            out = _local(*part, pattern, site)
        for place, head in enumerate(chosen):
            heads[head] = out[:, place]
    return torch.stack([head for head in heads if head is not None], dim=2).transpose(1, 2)


def _local(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pattern: Pattern, site: Site) -> torch.Tensor:
    """Return the output of heads that share one pattern; all arguments `[B, H, S, D]`."""
    window, sinks = pattern.params()
    length = q.shape[2]
    size = min(max(window, _LEAST_BLOCK), _LARGEST_BLOCK)
    start = torch.zeros((), dtype=torch.int64)
    blocks = []
    for first in range(0, length, size):
        last = min(length, first + size)
        low = max(0, first - window + 1)
        high = last if site.causal else min(length, last + window - 1)
        near = torch.arange(low, high)
        # Sinks stand before the window, or (bidirectional attention) behind it.
        seen = torch.cat(
            [torch.arange(min(sinks, low)), near, torch.arange(high, max(high, min(sinks, length)))]
        )
        position = torch.arange(first, last)[:, None]
        visible = pattern.visible(position, seen, start)
        if site.causal:
            visible = visible & (seen <= position)
        keys, values = k[:, :, seen], v[:, :, seen]
        blocks.append(
            F.scaled_dot_product_attention(
                q[:, :, first:last], keys, values, attn_mask=visible, scale=site.scale
            )
        )
    return torch.cat(blocks, dim=2)
