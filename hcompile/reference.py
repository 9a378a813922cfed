"""The reference of the attention operator: eager, readable, exact in float64, and differentiable."""

from __future__ import annotations

import torch

LIST_BLOCK = 64
"""Queries, and keys, of a block that a list names. Kernel tiles divide or multiply it: tuning changes no result."""
LIST_QUERIES = 2 * LIST_BLOCK
"""Queries that share a list: an entry says which halves of them see its block."""
_ROWS_AT_ONCE = 1024


def first_valid_key(key_mask: torch.Tensor) -> torch.Tensor:
    """Return the index of the first valid key of each row of `key_mask` `[B, Sk]`, 0 for a row without one: `[B]`."""
    return key_mask.to(torch.uint8).argmax(dim=1)


def listed_blocks(
    block_ptr: torch.Tensor, block_index: torch.Tensor, batch: int, heads: int, kv_len: int
) -> torch.Tensor:
    """Return which blocks of `LIST_BLOCK` keys are in the list of each block of queries.

    Args:
        block_ptr, block_index: lists as the operator takes them (`hcompile.operator`).

    Returns:
        bool `[B, H, query blocks, key blocks]`.
    """
    tiles, blocks = (len(block_ptr) - 1) // (batch * heads), -(-kv_len // LIST_BLOCK)
    counts = block_ptr.diff().long()
    tile = torch.arange(batch * heads * tiles, device=block_ptr.device).repeat_interleave(counts)
    entries = block_index[: len(tile)].long()
    listed = torch.zeros(batch * heads * tiles, 2, blocks, dtype=torch.bool, device=block_ptr.device)
    for half in range(2):
        seen = (entries >> half) & 1 != 0
        listed[tile[seen], half, (entries >> 2)[seen]] = True
    return listed.view(batch, heads, 2 * tiles, blocks)


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
        seen = torch.where(window == 0, listed[..., key // LIST_BLOCK], seen)
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
    block_ptr: torch.Tensor | None = None,
    block_index: torch.Tensor | None = None,
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
        block_ptr, block_index: lists of key blocks as `hcompile.operator` has them; None where no head reads any.
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
    if block_ptr is not None and block_index is not None:
        blocks = listed_blocks(block_ptr, block_index, len(q), q_heads, kv_len)
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
    # `contiguous()` would keep odd strides in sizes of 1, which the operator's fake output does not have.
    return out.to(q.dtype).transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)
