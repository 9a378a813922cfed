"""Lists of key blocks: what a head reads whose keys no window describes.

    block_count  int32 [B, R, T], entries of each list: R heads that read lists, in the order of the heads, and a list
                 for each 128 queries
    block_index  int32 [B, R, T, C], 4 * (block of 64 keys), + 1 where the first 64 of the queries see it, + 2 where the
                 last 64 do; a block once at most. What stands behind the count says nothing

Sizes follow from those of the call, not from what the lists hold, so that a graph can be compiled ahead.
"""

from __future__ import annotations

import torch

from hcompile.patterns.blocks import LIST_BLOCK, LIST_WINDOW

Lists = tuple[torch.Tensor, torch.Tensor]
"""(block_count, block_index)."""


def lists_of(chosen: torch.Tensor) -> Lists:
    """Return the lists of chosen blocks, bool `[B, R, query blocks, key blocks]`; C is the number of key blocks."""
    missing = -chosen.shape[2] % 2
    halves = torch.nn.functional.pad(chosen, (0, 0, 0, missing)).unflatten(2, (-1, 2))
    bits = halves[:, :, :, 0] + 2 * halves[:, :, :, 1].to(torch.int32)
    count = (bits != 0).sum(-1, dtype=torch.int32)
    block = torch.arange(chosen.shape[3], device=chosen.device, dtype=torch.int32)
    order = (bits == 0).to(torch.uint8).argsort(dim=-1, stable=True)
    return count, (4 * block + bits).gather(-1, order).to(torch.int32)


def listed_blocks(lists: Lists, kv_len: int) -> torch.Tensor:
    """Return which blocks of keys are in the list of each block of queries: bool `[B, R, 2 * T, key blocks]`."""
    count, index = lists
    blocks = -(-kv_len // LIST_BLOCK)
    there = torch.arange(index.shape[-1], device=index.device) < count[..., None]
    entries = torch.where(there, index, 0).long()
    listed = torch.zeros(*count.shape, 2, blocks, dtype=torch.int32, device=index.device)
    for half in range(2):
        seen = (entries >> half) & 1
        listed[..., half, :].scatter_add_(-1, entries >> 2, seen.to(torch.int32))
    return (listed != 0).flatten(2, 3)


def list_rules(head_params: torch.Tensor) -> list[tuple[int, int]]:
    """Return the heads that read lists, each with what its second parameter says, of parameters int32 `[H, 2]`.

    Waits for a GPU that they are on.
    """
    return [(head, rule) for head, (window, rule) in enumerate(head_params.tolist()) if window == LIST_WINDOW]
