"""Launches the decode kernel."""

from __future__ import annotations

import torch
import triton

from hcompile.codegen.triton_gpu.ahead import Source, types_of
from hcompile.codegen.triton_gpu.inputs import (
    LOG2_E,
    Counters,
    check_call,
    dense_rows,
    masked,
    on_device_of,
)
from hcompile.codegen.triton_gpu.kernels.decode import decode
from hcompile.errors import KernelError
from hcompile.operator import Kernel, empty_output
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.templates.gpu_tiles import padded_head
from hcompile.schedules.templates.triton_decode import MOST_ROWS

_MOST_PAIRS = 65535  # Of a grid's second dimension.


def source(
    schedule: Schedule,
    dtype: str,
    head_dim: int,
    *,
    group: int,
    causal: bool,
    masked: bool,
    page: int = 0,
    q_len: int = 1,
) -> Source:
    """Return what to compile ahead of time for calls of a few queries."""
    block_head = padded_head(head_dim)
    constants = {
        "GROUP": group,
        "ROWS": tile_rows(group, q_len),
        "CAUSAL": causal,
        "HAS_VALID": masked,
        "PAGE": page,
        "EARLY": bool(schedule["early"]),
        "SPLITS": triton.next_power_of_2(schedule["splits"]),
        "KEYS": schedule["keys"],
        "HEAD": head_dim,
        "BLOCK_HEAD": block_head,
    }
    pointers = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "o_ptr"), dtype)
    pointers |= {"key_mask": "bool", "partial_out": "float32", "partial_sums": "float32"}
    types = types_of(decode, constants, pointers, ("head_params", "valid", "table", "arrived"))
    return Source(decode, types, constants, schedule["warps"], schedule["stages"])


def tile_rows(group: int, q_len: int) -> int:
    """Return the rows of a tile: those of the queries, in a power of two, and 16 at least for the matrix unit."""
    return max(16, int(triton.next_power_of_2(group * q_len)))


def _check_table(table: torch.Tensor, q: torch.Tensor, kv_len: int, page: int) -> None:
    """Raises: KernelError when a table of pages does not name `kv_len` keys of each sequence."""
    wanted = -(-kv_len // page)
    if (
        table.dim() != 2
        or table.shape[0] != q.shape[0]
        or table.shape[1] < wanted
        or table.dtype != torch.int32
    ):
        raise KernelError(
            f"decode: table is {table.dtype} {tuple(table.shape)}, wanted int32 [{q.shape[0]}, {wanted} or more]"
        )
    if table.device != q.device or table.stride(1) != 1:
        raise KernelError(
            f"decode: table is on {table.device}, in {table.stride()}: wanted rows on {q.device}"
        )


def bind(schedule: Schedule) -> Kernel:
    """Return the kernel of a schedule, for calls of at most `MOST_ROWS` rows a KV head.

    With `table`, int32 `[B, pages a sequence]`, `k` and `v` are pages `[pages, Hkv, PAGE, D]`; that the pages it names
    are there is not checked. With `early`, no kernel just before a call may write `head_params`.
    """
    keys, splits, warps, stages = (schedule[name] for name in ("keys", "splits", "warps", "stages"))
    early = bool(schedule["early"])
    counters = Counters()

    def kernel(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        key_mask: torch.Tensor | None,
        head_params: torch.Tensor,
        q_offset: int,
        scale: float,
        causal: bool,
        table: torch.Tensor | None = None,
    ) -> torch.Tensor:
        page = 0 if table is None else k.shape[2]
        kv_len = q_offset + q.shape[2] if page else k.shape[2]
        check_call(q, k, v, key_mask, head_params, scale, kv_len if page else None)
        if table is not None:
            _check_table(table, q, kv_len, page)
        (batch, q_heads, q_len, head_dim), kv_heads = q.shape, k.shape[1]
        out = empty_output(q)
        if not out.numel():
            return out
        q, k, v, head_params = dense_rows(q), dense_rows(k), dense_rows(v), head_params.contiguous()
        group = q_heads // kv_heads
        rows = tile_rows(group, q_len)
        if rows > MOST_ROWS:
            raise KernelError(f"decode of {q_len} queries by {group} heads a group: use a prefill kernel")
        block_head = padded_head(head_dim)
        valid, mask = masked(head_params, key_mask)
        pairs = batch * kv_heads
        if pairs > _MOST_PAIRS:
            raise KernelError(
                f"decode of {batch} sequences with {kv_heads} KV heads: wanted {_MOST_PAIRS} pairs at most"
            )
        partial_out = torch.empty((pairs, splits, rows, block_head), dtype=torch.float32, device=q.device)
        partial_sums = torch.empty((pairs, splits, 2, rows), dtype=torch.float32, device=q.device)
        with on_device_of(q):
            decode[(splits, pairs)](
                *(q, k, v, out, head_params, valid, mask, head_params if table is None else table),
                *(partial_out, partial_sums, counters.of(q.device, pairs)),
                *(kv_heads, q_len, kv_len, q_offset, splits, scale * LOG2_E),
                *(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3]),
                0 if table is None else table.stride(0),
                group,
                rows,
                causal,
                key_mask is not None,
                page,
                early,
                triton.next_power_of_2(splits),
                keys,
                head_dim,
                block_head,
                num_warps=warps,
                num_stages=stages,
                **({"launch_pdl": True} if early else {}),
            )
        return out

    return kernel
