"""Which blocks of keys a head reads, chosen by what the queries look for: the reference of routed selection.

A block of `LIST_BLOCK` queries reads the fewest blocks of keys that hold a share of its attention, estimated on sampled
keys: exact scores of every query with every n-th key, softmax over those, summed by block. On heads that retrieve, that
estimate lost less than pooled keys or antidiagonals (MInference, arXiv:2407.02490; XAttention, arXiv:2503.16428) at as
many pairs, and a share of the attention less than a fixed number of blocks (docs/adr/0012). The block of the query and
the first block of valid keys are always read.
"""

from __future__ import annotations

import torch

from hcompile.reference import LIST_BLOCK, LIST_QUERIES, first_valid_key

_QUERIES_AT_ONCE = 1024


def block_shares(
    q: torch.Tensor,
    k: torch.Tensor,
    key_mask: torch.Tensor | None,
    q_offset: int,
    scale: float,
    causal: bool,
    *,
    every_key: int = 1,
) -> torch.Tensor:
    """Return the share that each block of keys has in the attention of each block of queries, as sampled keys tell.

    Args:
        q, k, key_mask, q_offset, scale, causal: as in `hcompile.reference.attention_reference`.
        every_key: the sampled keys are those in the middle of each `every_key`, which divides `LIST_BLOCK`; 1 for all,
            and so for the exact shares.

    Returns:
        `[B, Hq, query blocks, key blocks]` in the dtype that the reference computes in. A row adds up to the share of
        its queries that see a sampled key: to 1, but for the first queries of causal attention and for padding.

    Raises:
        ValueError: `every_key` does not divide the block.
    """
    if every_key < 1 or LIST_BLOCK % every_key:
        raise ValueError(f"routing: every_key is {every_key}, wanted a divisor of {LIST_BLOCK}")
    dtype = q.dtype if q.dtype in (torch.float32, torch.float64) else torch.float32
    (batch, heads, q_len, _), (_, kv_heads, kv_len, _) = q.shape, k.shape
    query_blocks, key_blocks = -(-q_len // LIST_BLOCK), -(-kv_len // LIST_BLOCK)
    sampled = torch.arange(every_key // 2, kv_len, every_key, device=q.device)
    keys = k[:, :, sampled].to(dtype).repeat_interleave(heads // kv_heads, 1)
    shares = q.new_zeros((batch, heads, query_blocks, key_blocks), dtype=dtype)
    for first in range(0, q_len, _QUERIES_AT_ONCE):
        last = min(q_len, first + _QUERIES_AT_ONCE)
        positions = torch.arange(first, last, device=q.device) + q_offset
        seen = torch.ones(1, 1, last - first, len(sampled), dtype=torch.bool, device=q.device)
        if causal:
            seen = seen & (sampled <= positions[:, None])
        if key_mask is not None:
            seen = seen & key_mask[:, None, None, sampled]
        scores = (q[:, :, first:last].to(dtype) @ keys.transpose(-1, -2)) * scale
        weights = scores.masked_fill(~seen, float("-inf")).softmax(-1).nan_to_num(0.0)
        blocks = q.new_zeros((batch, heads, last - first, key_blocks), dtype=dtype)
        blocks.index_add_(3, sampled // LIST_BLOCK, weights)
        rows = torch.arange(first, last, device=q.device) // LIST_BLOCK
        shares.index_add_(2, rows, blocks)
    sizes = torch.arange(query_blocks, device=q.device) * LIST_BLOCK
    return shares / (q_len - sizes).clamp(max=LIST_BLOCK)[:, None]


def choose_blocks(
    shares: torch.Tensor,
    share: float,
    key_mask: torch.Tensor | None,
    q_offset: int,
    q_len: int,
    kv_len: int,
    causal: bool,
) -> torch.Tensor:
    """Return the fewest blocks that hold `share` of the estimated attention, and those that are always read.

    Args:
        shares: of `block_shares`.
        share: from 0 to 1.

    Returns:
        bool `[B, Hq, query blocks, key blocks]`; none that causality hides from all queries of the block.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"routing: share is {share}, wanted 0 to 1")
    ordered, places = shares.sort(dim=-1, descending=True, stable=True)
    # Blocks before which the wanted share is not reached yet.
    before = ordered.cumsum(-1) - ordered
    needed = before < share * ordered.sum(-1, keepdim=True)
    chosen = torch.zeros_like(needed).scatter_(-1, places, needed)
    query_blocks, key_blocks = shares.shape[-2:]
    starts = torch.arange(query_blocks, device=shares.device) * LIST_BLOCK
    first_position = q_offset + starts
    last_position = q_offset + (starts + LIST_BLOCK).clamp(max=q_len) - 1
    block = torch.arange(key_blocks, device=shares.device)
    own = (block >= first_position[:, None] // LIST_BLOCK) & (block <= last_position[:, None] // LIST_BLOCK)
    start = shares.new_zeros(1, dtype=torch.int64) if key_mask is None else first_valid_key(key_mask)
    chosen = chosen | own | (block == start[:, None, None, None] // LIST_BLOCK)
    if causal:
        chosen = chosen & (block * LIST_BLOCK <= last_position[:, None])
    return chosen


def lists_of(chosen: torch.Tensor, routed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the lists of chosen blocks as the attention operator reads them (`hcompile.operator`).

    Args:
        chosen: bool `[B, Hq, query blocks, key blocks]`.
        routed: bool `[Hq]`, the heads that read lists; others get empty ones.

    Returns:
        (block_ptr, block_index).
    """
    blocks_a_list = LIST_QUERIES // LIST_BLOCK
    chosen = chosen & routed[:, None, None]
    missing = -chosen.shape[2] % blocks_a_list
    halves = torch.nn.functional.pad(chosen, (0, 0, 0, missing)).unflatten(2, (-1, blocks_a_list))
    bits = (halves * torch.tensor([1, 2], device=chosen.device)[:, None]).sum(3).flatten(0, 2)
    counts = (bits != 0).sum(-1)
    block_ptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0)).to(torch.int32)
    lists, block = bits.nonzero(as_tuple=True)
    return block_ptr, (4 * block + bits[lists, block]).to(torch.int32)
