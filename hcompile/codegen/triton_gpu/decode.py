"""Launches the decode kernel."""

from __future__ import annotations

import torch
import triton

from hcompile.codegen.triton_gpu.ahead import Source, types_of
from hcompile.codegen.triton_gpu.inputs import LOG2_E, Counters, check_shapes, empty_output, masked
from hcompile.codegen.triton_gpu.kernels.decode import decode
from hcompile.errors import KernelError
from hcompile.operator import Kernel
from hcompile.schedules.schedule import Schedule

MERGED_ELEMENTS = 8192
MOST_ROWS = 64
"""Query heads of a KV head times queries, at most."""


def source(
    schedule: Schedule,
    dtype: str,
    head_dim: int,
    *,
    group: int,
    causal: bool,
    masked: bool,
    page: int = 0,
) -> Source:
    """Return what to compile ahead of time for calls of few rows."""
    block_head = max(16, triton.next_power_of_2(head_dim))
    constants = {
        "GROUP": group,
        "ROWS": 16,
        "CAUSAL": causal,
        "HAS_VALID": masked,
        "PAGE": page,
        "EARLY": bool(schedule["early"]),
        "REAL": triton.next_power_of_2(group),
        "TOGETHER": parts_together(schedule["splits"], triton.next_power_of_2(group) * block_head),
        "KEYS": schedule["keys"],
        "HEAD": head_dim,
        "BLOCK_HEAD": block_head,
    }
    pointers = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "o_ptr"), dtype)
    pointers |= {"key_mask": "bool", "partial_out": "float32", "partial_sums": "float32"}
    types = types_of(decode, constants, pointers, ("head_params", "valid", "table", "arrived"))
    return Source(decode, types, constants, schedule["warps"], schedule["stages"])


def parts_together(splits: int, part: int) -> int:
    """Return how many programs' parts of so many elements are merged at once: what registers hold."""
    return max(1, min(triton.next_power_of_2(splits), MERGED_ELEMENTS // part))


def bind(schedule: Schedule) -> Kernel:
    """Return the kernel of a schedule, for calls of at most `MOST_ROWS` rows a KV head.

    With `table`, int32 `[B, pages a sequence]`, `k` and `v` are pages `[pages, Hkv, PAGE, D]`.
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
        (batch, q_heads, q_len, head_dim), kv_heads = q.shape, k.shape[1]
        if table is None:
            check_shapes(q, k, v, head_params)
        page = 0 if table is None else k.shape[2]
        kv_len = q_offset + q_len if page else k.shape[2]
        out = empty_output(q)
        if not out.numel():
            return out
        group = q_heads // kv_heads
        real_rows = triton.next_power_of_2(group * q_len)
        tile_rows = max(16, real_rows)
        if tile_rows > MOST_ROWS:
            raise KernelError(f"decode of {q_len} queries by {group} heads a group: use a prefill kernel")
        block_head = max(16, triton.next_power_of_2(head_dim))
        valid, mask = masked(head_params, key_mask)
        pairs = batch * kv_heads
        partial_out = torch.empty(
            (pairs, splits, tile_rows, block_head), dtype=torch.float32, device=q.device
        )
        partial_sums = torch.empty((pairs, splits, 2, tile_rows), dtype=torch.float32, device=q.device)
        decode[(splits, pairs)](
            *(q, k, v, out, head_params, valid, mask, head_params if table is None else table),
            *(partial_out, partial_sums, counters.of(q.device, pairs)),
            *(kv_heads, q_len, kv_len, q_offset, splits, scale * LOG2_E),
            *(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3]),
            0 if table is None else table.stride(0),
            group,
            tile_rows,
            real_rows,
            causal,
            key_mask is not None,
            page,
            early,
            parts_together(splits, real_rows * block_head),
            keys,
            head_dim,
            block_head,
            num_warps=warps,
            num_stages=stages,
            **({"launch_pdl": True} if early else {}),
        )
        return out

    return kernel
