"""Launches the portable prefill kernel."""

from __future__ import annotations

import torch

from hcompile.codegen.triton_gpu.ahead import Source, types_of
from hcompile.codegen.triton_gpu.heads import HeadOrders
from hcompile.codegen.triton_gpu.inputs import (
    LOG2_E,
    check_call,
    dense_rows,
    masked,
    on_device_of,
)
from hcompile.codegen.triton_gpu.kernels.prefill import prefill
from hcompile.errors import KernelError
from hcompile.operator import Kernel, empty_output
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.templates.gpu_tiles import padded_head


def source(
    schedule: Schedule, dtype: str, head_dim: int, *, group: int, causal: bool, masked: bool
) -> Source:
    """Return what to compile ahead of time for these calls."""
    constants = {
        "GROUP": group,
        "CAUSAL": causal,
        "HAS_VALID": masked,
        "ROWS": schedule["rows"],
        "KEYS": schedule["keys"],
        "HEAD": head_dim,
        "BLOCK_HEAD": padded_head(head_dim),
    }
    pointers = {**dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "o_ptr"), dtype), "key_mask": "bool"}
    types = types_of(prefill, constants, pointers, ("heads", "valid"))
    return Source(prefill, types, constants, schedule["warps"], schedule["stages"])


def bind(schedule: Schedule) -> Kernel:
    """Return the kernel of a schedule."""
    orders = HeadOrders()
    rows, keys, warps, stages = (schedule[name] for name in ("rows", "keys", "warps", "stages"))

    def kernel(
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        key_mask: torch.Tensor | None,
        head_params: torch.Tensor,
        q_offset: int,
        scale: float,
        causal: bool,
    ) -> torch.Tensor:
        check_call(q, k, v, key_mask, head_params, scale)
        (batch, q_heads, q_len, head_dim), (_, kv_heads, kv_len, _) = q.shape, k.shape
        out = empty_output(q)
        if not out.numel():
            return out
        q, k, v = dense_rows(q), dense_rows(k), dense_rows(v)
        order = orders.of(head_params)
        if order.lists:
            raise KernelError("attention: heads with lists want the Hopper kernel")
        tiles = -(-q_len // rows)
        valid, mask = masked(head_params, key_mask)
        with on_device_of(q):
            prefill[(batch * q_heads * tiles,)](
                *(q, k, v, out, order.table, valid, mask),
                *(batch, order.long_heads(kv_len), q_len, kv_len, q_offset, tiles, scale * LOG2_E),
                *(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3]),
                q_heads // kv_heads,
                causal,
                key_mask is not None,
                rows,
                keys,
                head_dim,
                padded_head(head_dim),
                num_warps=warps,
                num_stages=stages,
            )
        return out

    return kernel
