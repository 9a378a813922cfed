"""Chooses the blocks of keys that routed heads read, on the device: the host waits for nothing, and sizes are fixed."""

from __future__ import annotations

import torch

from hcompile.codegen.triton_gpu.ahead import Source, types_of
from hcompile.codegen.triton_gpu.heads import HeadOrder
from hcompile.codegen.triton_gpu.inputs import LOG2_E
from hcompile.codegen.triton_gpu.kernels.route import block_shares, choose_blocks
from hcompile.codegen.triton_gpu.launch import Call, Launcher
from hcompile.lists import Lists
from hcompile.patterns.blocks import LIST_BLOCK, LIST_QUERIES
from hcompile.schedules.templates.gpu_tiles import padded_head

WARPS = 8
STAGES = 3
SAMPLES = 64
"""Sampled keys that are looked at together. With twice as many, two programs of heads of 128 fit a multiprocessor only
where they spill; one is to multiply while the other takes exponentials."""
REGISTERS = 128
"""Of a thread at most: two programs fit."""
_LEAST_BLOCKS = 64


def tiles(row_bytes: int) -> tuple[int, int]:
    """Return how many sampled keys are looked at together, and how many such tiles are there at a time."""
    return (SAMPLES, STAGES) if row_bytes <= 512 else (SAMPLES // 2, 2)


def blocks_at_once(key_blocks: int) -> int:
    """Return the power of four that holds all blocks of keys: not every length has code of its own."""
    blocks = _LEAST_BLOCKS
    while blocks < key_blocks:
        blocks *= 4
    return blocks


def sources(
    dtype: str, head_dim: int, *, group: int, causal: bool, masked: bool, kv_len: int
) -> list[Source]:
    """Return what to compile ahead of time for these calls."""
    head = padded_head(head_dim)
    samples, stages = tiles(head * getattr(torch, dtype).itemsize)
    constants: dict[str, int | bool] = {
        "GROUP": group,
        "CAUSAL": causal,
        "HAS_VALID": masked,
        "SAMPLES": samples,
        "STAGES": stages,
        "HEAD": head_dim,
        "BLOCK_HEAD": head,
    }
    pointers = {
        "q_ptr": dtype,
        "k_ptr": dtype,
        "shares": "float32",
        "key_mask": "bool" if masked else "int32",
    }
    types = types_of(block_shares, constants, pointers, ("heads", "valid"))
    found = [Source(block_shares, types, constants, WARPS, registers=REGISTERS)]
    constants = {"CAUSAL": causal, "HAS_VALID": masked, "BLOCKS": blocks_at_once(-(-kv_len // LIST_BLOCK))}
    integers = ("heads", "valid", "list_count", "list_index")
    types = types_of(choose_blocks, constants, {"shares": "float32"}, integers)
    return [*found, Source(choose_blocks, types, constants, WARPS)]


class Router:
    """The selection of the nodes that one kernel is bound to.

    Arguments of its calls: `facts`, what all others but the tensors' contents and addresses are determined by; `q`, `k`
    and `q_offset` to `causal` of the operator, checked, elements of a head side by side; `valid` and `mask` of
    `inputs.masked`.
    """

    def __init__(self) -> None:
        self._estimate = Launcher(block_shares, num_warps=WARPS, maxnreg=REGISTERS)
        self._choose = Launcher(choose_blocks, num_warps=WARPS)

    def __call__(
        self,
        facts: object,
        q: torch.Tensor,
        k: torch.Tensor,
        valid: torch.Tensor,
        mask: torch.Tensor,
        order: HeadOrder,
        q_offset: int,
        scale: float,
        causal: bool,
    ) -> Lists:
        """Return the lists of a call's routed heads, with room for every block of keys."""
        shares = self.shares(facts, q, k, valid, mask, order, q_offset, scale, causal)
        call = self._choose.ready(facts)
        if call is None:
            call = self._prepare_choice(facts, shares, q, k, mask, order, q_offset, causal)
        batch, heads, query_blocks, key_blocks = shares.shape
        lists = batch, heads, query_blocks // 2
        count = shares.new_empty(lists, dtype=torch.int32)
        index = shares.new_empty((*lists, key_blocks), dtype=torch.int32)
        self._choose(call, (), (), (shares, order.table, valid, count, index))
        return count, index

    def shares(
        self,
        facts: object,
        q: torch.Tensor,
        k: torch.Tensor,
        valid: torch.Tensor,
        mask: torch.Tensor,
        order: HeadOrder,
        q_offset: int,
        scale: float,
        causal: bool,
    ) -> torch.Tensor:
        """Return `[B, R, 2 * T, key blocks]` of `hcompile.routing.block_shares`, where a query of a tile sees some."""
        query_blocks, key_blocks = 2 * -(-q.shape[2] // LIST_QUERIES), -(-k.shape[2] // LIST_BLOCK)
        shares = q.new_empty((q.shape[0], order.list_heads, query_blocks, key_blocks), dtype=torch.float32)
        call = self._estimate.ready(facts)
        if call is None:
            call = self._prepare_estimate(facts, shares, q, k, mask, order, q_offset, scale, causal)
        self._estimate(call, (), (q, k), (shares, order.table, valid, mask))
        return shares

    def _prepare_estimate(
        self,
        facts: object,
        shares: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        mask: torch.Tensor,
        order: HeadOrder,
        q_offset: int,
        scale: float,
        causal: bool,
    ) -> Call:
        head_dim = q.shape[3]
        head = padded_head(head_dim)
        return self._estimate.prepare(
            facts,
            q,
            _grid(shares),
            sizes=_sizes(shares, q, k, order, q_offset),
            scale=scale * LOG2_E,
            strides=(*q.stride()[:3], *k.stride()[:3]),
            constants=(
                *(q.shape[1] // k.shape[1], causal, mask.dtype == torch.bool),
                *(*tiles(head * q.element_size()), head_dim, head),
            ),
        )

    def _prepare_choice(
        self,
        facts: object,
        shares: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        mask: torch.Tensor,
        order: HeadOrder,
        q_offset: int,
        causal: bool,
    ) -> Call:
        return self._choose.prepare(
            facts,
            shares,
            _grid(shares),
            sizes=_sizes(shares, q, k, order, q_offset),
            scale=None,
            strides=(),
            constants=(causal, mask.dtype == torch.bool, blocks_at_once(shares.shape[3])),
        )


def _grid(shares: torch.Tensor) -> tuple[int, int]:
    batch, heads, query_blocks, _ = shares.shape
    return batch * heads * (query_blocks // 2), 1


def _sizes(
    shares: torch.Tensor, q: torch.Tensor, k: torch.Tensor, order: HeadOrder, q_offset: int
) -> tuple[int, ...]:
    """Return the sizes that both kernels take."""
    heads = order.list_heads
    return (
        len(order.windows) - heads,
        heads,
        q.shape[2],
        k.shape[2],
        q_offset,
        shares.shape[2] // 2,
        shares.shape[3],
    )
