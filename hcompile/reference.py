"""The reference of the attention operator: eager, readable, exact in float64, and differentiable."""

from __future__ import annotations

import torch

from hcompile.far_field import FarFields, check_far_fields, replace_far_heads
from hcompile.lists import listed_blocks
from hcompile.patterns.blocks import LIST_BLOCK, LIST_WINDOW
from hcompile.routing import first_valid_key, route

_ROWS_AT_ONCE = 1024


def visible_pairs(
    head_params: torch.Tensor,
    positions: torch.Tensor,
    kv_len: int,
    key_mask: torch.Tensor | None,
    causal: bool,
    listed: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return which keys each query sees.

    Args:
        head_params: int `[H, 2]`, (window, sinks) of each query head.
        positions: int `[Sq]`, absolute positions of the queries.
        kv_len: number of keys Sk.
        key_mask: bool `[B, Sk]`, True for valid keys, or None.
        causal: hide later keys.
        listed: bool `[B, H, Sq, key blocks]`, what a query of a head with the window 0 sees; None where no head reads
            lists.

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
    if listed is not None:
        seen = torch.where(window == LIST_WINDOW, listed[..., key // LIST_BLOCK], seen)
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
    block_count: torch.Tensor | None = None,
    block_index: torch.Tensor | None = None,
    far: FarFields | None = None,
    *,
    first_row: int = 0,
) -> torch.Tensor:
    """Compute softmax(scale * Q K^T restricted to the visible pairs) V.

    Computes in the dtype of `q` (float64 for an oracle; lower ones in float32). A query that sees no key gives zeros.
    Works in slices of query rows, so memory grows with the length and not with its square.

    Args:
        q: `[B, Hq, Sq, D]`. k, v: `[B, Hkv, Sk, D]`, Hq a multiple of Hkv.
        key_mask, head_params, causal: as in `visible_pairs`.
        q_offset: absolute position of the first query.
        block_count, block_index: the lists of the heads that read some (`hcompile.lists`); None to choose them here.
        far: heads that see what is outside their window through learned features (`hcompile.far_field`).
        first_row: which query of those that the lists speak of is the first one here.

    Returns:
        `[B, Hq, Sq, D]` in the dtype of `q`, laid out as `[B, Sq, Hq, D]` in memory.
    """
    dtype = q.dtype if q.dtype in (torch.float32, torch.float64) else torch.float32
    q_heads, q_len = q.shape[1], q.shape[2]
    kv_heads, kv_len = k.shape[1], k.shape[2]
    keys = k.to(dtype)[:, :, None]
    values = v.to(dtype)[:, :, None]
    blocks = None
    if block_count is None or block_index is None:
        lists = route(q, k, key_mask, head_params, q_offset, scale, causal)
        first_row = 0
    else:
        lists = block_count, block_index
    if lists is not None:
        blocks = of_all_heads(listed_blocks(lists, kv_len), head_params)
    pieces = []
    for first in range(0, q_len, _ROWS_AT_ONCE):
        last = min(q_len, first + _ROWS_AT_ONCE)
        rows_at = torch.arange(first, last, device=q.device)
        listed = None if blocks is None else blocks[:, :, (first_row + rows_at) // LIST_BLOCK]
        seen = visible_pairs(head_params, rows_at + q_offset, kv_len, key_mask, causal, listed)
        seen = seen.unflatten(1, (kv_heads, q_heads // kv_heads))
        rows = q[:, :, first:last].to(dtype).unflatten(1, (kv_heads, q_heads // kv_heads))
        scores = (rows @ keys.transpose(-1, -2)) * scale
        scores = scores.masked_fill(~seen, float("-inf"))
        # A row without a visible key has only -inf scores: its softmax is NaN, and zero by definition.
        weights = torch.where(seen.any(-1, keepdim=True), scores, torch.zeros_like(scores)).softmax(-1)
        weights = weights.masked_fill(~seen, 0.0)
        pieces.append((weights @ values).flatten(1, 2))
    out = torch.cat(pieces, dim=2) if pieces else q.to(dtype)
    if far is not None and q_len and kv_len:
        check_far_fields(far, q, causal)
        out = replace_far_heads(out, q, k, v, key_mask, head_params, far, q_offset, scale)
    # `contiguous()` would keep odd strides in sizes of 1, which the operator's fake output does not have.
    return out.to(q.dtype).transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)


def of_all_heads(listed: torch.Tensor, head_params: torch.Tensor) -> torch.Tensor:
    """Spread `[B, R, query blocks, key blocks]` of the heads that read lists over all heads."""
    reads = (head_params[:, 0] == LIST_WINDOW).to(listed.device)
    spread = listed.new_zeros((listed.shape[0], len(reads), *listed.shape[2:]))
    spread[:, reads] = listed
    return spread
