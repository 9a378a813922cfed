"""Attention with a gradient whose cost follows the pattern: local heads touch the keys of their window only.

Heads that read lists are the exception: they compute every pair, one head at a time.

The operator's own gradient recomputes every pair. Taylor scores need the gradient of hybrids at full length, where
that would dominate the whole policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from hcompile.far_field import far_field
from hcompile.patterns import Dense, Pattern
from hcompile.policy.listed import SiteLists, visible_to
from hcompile.site import Site

_LEAST_BLOCK, _LARGEST_BLOCK = 128, 1024


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    patterns: Sequence[Pattern],
    site: Site,
    maps: Mapping[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return softmax(scale * Q K^T on the visible pairs) V, differentiable in q, k and v.

    Args:
        q: `[B, Hq, S, D]`. k, v: `[B, Hkv, S, D]`. Every key is valid, and the first query is at position 0.
        patterns: one per query head.
        maps: of linear far fields, by site; for patterns that have one.

    Returns:
        `[B, Hq, S, D]`, laid out as `[B, S, Hq, D]` in memory, as the operator's output is.
    """
    patterns = [pattern.at(k.shape[2]) for pattern in patterns]
    order: list[int] = []
    outs = []
    for pattern in dict.fromkeys(patterns):
        heads = [head for head, its in enumerate(patterns) if its == pattern]
        part = (
            _heads(q, heads),
            _heads(k, [h // site.group for h in heads]),
            _heads(v, [h // site.group for h in heads]),
        )
        if pattern.has_far_field:
            assert maps is not None
            outs.append(far_field(*part, None, maps[site.name][heads], *pattern.params(), 0, site.scale))
        elif pattern.reads_lists:
            outs.append(_listed(*part, pattern, site))
        elif pattern == Dense():
            outs.append(F.scaled_dot_product_attention(*part, is_causal=site.causal, scale=site.scale))
        else:
            outs.append(_local(*part, pattern, site))
        order += heads
    out = _heads(torch.cat(outs, dim=1), [order.index(head) for head in range(len(order))])
    return out.transpose(1, 2).contiguous().transpose(1, 2)


def _heads(value: torch.Tensor, heads: list[int]) -> torch.Tensor:
    """Pick heads of `[B, H, S, D]`; unlike indexing with a list, this has a fast gradient."""
    return (
        value
        if heads == list(range(value.shape[1]))
        else value.index_select(1, torch.tensor(heads, device=value.device))
    )


def _local(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pattern: Pattern, site: Site) -> torch.Tensor:
    """Return the output of heads that share one local pattern; all arguments and the result `[B, H, S, D]`.

    The queries become blocks, and the blocks a batch: each sees the sinks and the keys around it.
    """
    window, sinks = pattern.params()
    batch, heads, length, head_dim = q.shape
    sinks = min(sinks, length)
    size = min(max(window, _LEAST_BLOCK), _LARGEST_BLOCK)
    blocks = -(-length // size)
    before, after = window - 1, 0 if site.causal else window - 1
    span = before + size + after

    def around(value: torch.Tensor) -> torch.Tensor:
        padded = F.pad(value, (0, 0, before, blocks * size - length + after))
        near = padded.unfold(2, span, size).permute(0, 2, 1, 4, 3)
        far = value[:, None, :, :sinks].expand(-1, blocks, -1, -1, -1)
        return torch.cat([far, near], dim=3).flatten(0, 1)

    def blocked(value: torch.Tensor) -> torch.Tensor:
        padded = F.pad(value, (0, 0, 0, blocks * size - length))
        parts: torch.Tensor = padded.unflatten(2, (blocks, size))
        return parts.transpose(1, 2).flatten(0, 1)

    seen = _visible(blocks, size, window, sinks, length, site.causal).to(q.device)
    visible = seen.repeat(batch, 1, 1)[:, None]
    with _masked_attention(q.device):
        out = F.scaled_dot_product_attention(
            blocked(q), around(k), around(v), attn_mask=visible, scale=site.scale
        )
    parted: torch.Tensor = out.unflatten(0, (batch, blocks))
    return parted.transpose(1, 2).reshape(batch, heads, blocks * size, head_dim)[:, :, :length]


def _listed(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, pattern: Pattern, site: Site) -> torch.Tensor:
    """Return the output of heads that are routed alike; all arguments and the result `[B, H, S, D]`.

    One head after the other, whose pairs are all computed. What is chosen has no gradient.
    """
    outs = []
    for head in range(q.shape[1]):
        one = slice(head, head + 1)
        with torch.no_grad():
            lists, _ = SiteLists(q[:, one], k[:, one], site).of(pattern)
            visible = visible_to(lists, q.shape[2], site.causal) if lists else None
        with _masked_attention(q.device):
            outs.append(
                F.scaled_dot_product_attention(
                    q[:, one], k[:, one], v[:, one], attn_mask=visible, scale=site.scale
                )
            )
    return torch.cat(outs, dim=1)


def _masked_attention(device: torch.device) -> AbstractContextManager[None]:
    """Keep to products and a softmax on a GPU."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cuda" else nullcontext()


def _visible(blocks: int, size: int, window: int, sinks: int, length: int, causal: bool) -> torch.Tensor:
    """Return what each query of each block sees of the sinks and of the keys around: bool `[blocks, size, keys]`."""
    first = torch.arange(blocks)[:, None] * size
    position = (first + torch.arange(size))[:, :, None]
    after = 0 if causal else window - 1
    near = (first + torch.arange(1 - window, size + after))[:, None, :]
    distance = position - near
    seen = (distance.abs() < window) & (near >= 0) & (near < length)
    if causal:
        seen = seen & (distance >= 0)
    # A sink inside the window is there already.
    to_sink = position - torch.arange(sinks)
    seen_sinks = to_sink >= window if causal else to_sink.abs() >= window
    # Queries past the end are cut away; they see something, since a softmax over nothing is NaN, gradients too.
    return torch.cat([seen_sinks, seen], dim=2) | (position >= length)
