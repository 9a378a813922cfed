"""The reference of the attention operator: eager, readable, exact in float64, and differentiable."""

from __future__ import annotations

import torch

_ROWS_AT_ONCE = 1024


def first_valid_key(key_mask: torch.Tensor) -> torch.Tensor:
    """Return the index of the first valid key of each row of `key_mask` `[B, Sk]`, 0 for a row without one: `[B]`."""
    return key_mask.to(torch.uint8).argmax(dim=1)


def visible_pairs(
    head_params: torch.Tensor,
    positions: torch.Tensor,
    kv_len: int,
    key_mask: torch.Tensor | None,
    causal: bool,
) -> torch.Tensor:
    """Return which keys each query sees.

    Args:
        head_params: int `[H, 2]`, (window, sinks) of each query head.
        positions: int `[Sq]`, absolute positions of the queries.
        kv_len: number of keys Sk.
        key_mask: bool `[B, Sk]`, True for valid keys, or None.
        causal: hide later keys.

    Returns:
        bool `[B or 1, H, Sq, Sk]`.
    """
    device = positions.device
    key = torch.arange(kv_len, device=device)
    position = positions[:, None]
    window = head_params[:, 0].to(device=device, dtype=torch.int64)[None, :, None, None]
    sinks = head_params[:, 1].to(device=device, dtype=torch.int64)[None, :, None, None]
    start = (
        torch.zeros(1, dtype=torch.int64, device=device) if key_mask is None else first_valid_key(key_mask)
    )
    near = (position - key).abs() < window
    sink = key < start[:, None, None, None] + sinks
    seen = near | sink
    if causal:
        seen = seen & (key <= position)
    if key_mask is not None:
        seen = seen & key_mask[:, None, None, :]
    return seen


def attention_reference(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    key_mask: torch.Tensor | None,
    head_params: torch.Tensor,
    q_offset: int,
    scale: float,
    causal: bool,
) -> torch.Tensor:
    """Compute softmax(scale * Q K^T restricted to the visible pairs) V.

    Computes in the dtype of `q` (float64 for an oracle; lower ones in float32). A query that sees no key gives zeros.
    Works in slices of query rows, so memory grows with the length and not with its square.

    Args:
        q: `[B, Hq, Sq, D]`. k, v: `[B, Hkv, Sk, D]`, Hq a multiple of Hkv.
        key_mask, head_params, causal: as in `visible_pairs`.
        q_offset: absolute position of the first query.

    Returns:
        `[B, Hq, Sq, D]` in the dtype of `q`, laid out as `[B, Sq, Hq, D]` in memory.
    """
    dtype = q.dtype if q.dtype in (torch.float32, torch.float64) else torch.float32
    q_heads, q_len = q.shape[1], q.shape[2]
    kv_heads, kv_len = k.shape[1], k.shape[2]
    keys = k.to(dtype)[:, :, None]
    values = v.to(dtype)[:, :, None]
    pieces = []
    for first in range(0, q_len, _ROWS_AT_ONCE):
        last = min(q_len, first + _ROWS_AT_ONCE)
        positions = torch.arange(first, last, device=q.device) + q_offset
        seen = visible_pairs(head_params, positions, kv_len, key_mask, causal)
        seen = seen.unflatten(1, (kv_heads, q_heads // kv_heads))
        rows = q[:, :, first:last].to(dtype).unflatten(1, (kv_heads, q_heads // kv_heads))
        scores = (rows @ keys.transpose(-1, -2)) * scale
        scores = scores.masked_fill(~seen, float("-inf"))
        # A row without a visible key has only -inf scores: its softmax is NaN, and zero by definition.
        weights = torch.where(seen.any(-1, keepdim=True), scores, torch.zeros_like(scores)).softmax(-1)
        weights = weights.masked_fill(~seen, 0.0)
        pieces.append((weights @ values).flatten(1, 2))
    out = torch.cat(pieces, dim=2) if pieces else q.to(dtype)
    # `contiguous()` would keep odd strides in sizes of 1, which the operator's fake output does not have.
    return out.to(q.dtype).transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)
