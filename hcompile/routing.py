"""Which blocks of keys a head reads, chosen by what the queries look for: the reference of routed selection.

A block of `LIST_BLOCK` queries reads the fewest blocks of keys that hold a share of its attention, estimated on sampled
keys: exact scores of every query with every n-th key, softmax over those, summed by block. On heads that retrieve, that
estimate lost less than pooled keys or antidiagonals (MInference, arXiv:2407.02490; XAttention, arXiv:2503.16428) at as
many pairs, and a share of the attention less than a fixed number of blocks (docs/adr/0012). The block of the query and
the first block of valid keys are always read.

A head of the parameters (0, n) is routed for a share of n thousandths.
"""

from __future__ import annotations

import torch

from hcompile.lists import Lists, list_rules, lists_of
from hcompile.patterns.blocks import EVERY_KEY, LIST_BLOCK, WHOLE

_QUERIES_AT_ONCE = 1024


def first_valid_key(key_mask: torch.Tensor) -> torch.Tensor:
    """Return the index of the first valid key of each row of `key_mask` `[B, Sk]`, 0 for a row without one: `[B]`."""
    return key_mask.to(torch.uint8).argmax(dim=1)


def route(
    q: torch.Tensor,
    k: torch.Tensor,
    key_mask: torch.Tensor | None,
    head_params: torch.Tensor,
    q_offset: int,
    scale: float,
    causal: bool,
) -> Lists | None:
    """Return the lists of the routed heads of a call; None where it has none.

    Args:
        q, k, key_mask, head_params, q_offset, scale, causal: as in `hcompile.reference.attention_reference`.
    """
    rules = list_rules(head_params)
    if not rules:
        return None
    group, heads = q.shape[1] // k.shape[1], [head for head, _ in rules]
    keys = [head // group for head in heads]
    shares = block_shares(q[:, heads], k[:, keys], key_mask, q_offset, scale, causal, every_key=EVERY_KEY)
    wanted = torch.tensor([share / WHOLE for _, share in rules], dtype=shares.dtype, device=q.device)
    return lists_of(
        choose_blocks(shares, wanted[:, None, None], key_mask, q_offset, q.shape[2], k.shape[2], causal)
    )


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
    sampled = torch.arange(kv_len, device=q.device)[every_key // 2 :: every_key]
    keys = k[:, :, every_key // 2 :: every_key].to(dtype)
    if kv_heads != heads:
        keys = keys.repeat_interleave(heads // kv_heads, 1)
    a_block = LIST_BLOCK // every_key
    shares = q.new_zeros((batch, heads, query_blocks, key_blocks), dtype=dtype)
    for first in range(0, q_len, _QUERIES_AT_ONCE):
        last = min(q_len, first + _QUERIES_AT_ONCE)
        # Whole blocks of keys up to the last one that some query sees.
        end = min(key_blocks, (last + q_offset - 1) // LIST_BLOCK + 1) if causal else key_blocks
        seen_keys = sampled[: end * a_block]
        scores = (q[:, :, first:last].to(dtype) * scale) @ keys[:, :, : end * a_block].transpose(-1, -2)
        hidden = None
        if causal:
            positions = torch.arange(first, last, device=q.device) + q_offset
            hidden = seen_keys > positions[:, None]
        if key_mask is not None:
            invalid = ~key_mask[:, None, None, seen_keys]
            hidden = invalid if hidden is None else hidden | invalid
        if hidden is not None:
            scores = scores.masked_fill_(hidden, float("-inf"))
        weights = scores.softmax(-1)
        if hidden is not None:  # A query that sees no sampled key has only NaN.
            weights = weights.nan_to_num_(0.0)
        weights = torch.nn.functional.pad(
            weights, (0, end * a_block - weights.shape[-1], 0, -(last - first) % LIST_BLOCK)
        )
        rows = weights.unflatten(2, (-1, LIST_BLOCK)).sum(3)
        at = first // LIST_BLOCK
        shares[:, :, at : at + rows.shape[2], :end] = rows.unflatten(3, (end, a_block)).sum(-1)
    sizes = torch.arange(query_blocks, device=q.device) * LIST_BLOCK
    return shares / (q_len - sizes).clamp(max=LIST_BLOCK)[:, None]


def choose_blocks(
    shares: torch.Tensor,
    share: float | torch.Tensor,
    key_mask: torch.Tensor | None,
    q_offset: int,
    q_len: int,
    kv_len: int,
    causal: bool,
) -> torch.Tensor:
    """Return the fewest blocks that hold `share` of the estimated attention, and those that are always read.

    Args:
        shares: of `block_shares`.
        share: from 0 to 1, or a tensor of them that fits `shares`, such as `[Hq, 1, 1]`.

    Returns:
        bool `[B, Hq, query blocks, key blocks]`; none that causality hides from all queries of the block.
    """
    if isinstance(share, float) and not 0.0 <= share <= 1.0:
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


def pairs_read(chosen: torch.Tensor, q_offset: int, q_len: int, kv_len: int, causal: bool) -> torch.Tensor:
    """Return how many (query, key) pairs the chosen blocks hold, without those that causality hides: int64 `[B, R]`.

    Args:
        chosen: bool `[B, R, query blocks, key blocks]`.
    """
    device = chosen.device
    ends = torch.full((q_len,), kv_len, device=device)
    if causal:
        ends = (torch.arange(q_len, device=device) + q_offset + 1).clamp(max=kv_len)
    starts = torch.arange(chosen.shape[3], device=device) * LIST_BLOCK
    seen = (ends[:, None] - starts).clamp(0, LIST_BLOCK)
    padded = torch.nn.functional.pad(seen, (0, 0, 0, -q_len % LIST_BLOCK))
    blocks: torch.Tensor = padded.unflatten(0, (-1, LIST_BLOCK)).sum(1)
    return (blocks * chosen).sum((2, 3))
