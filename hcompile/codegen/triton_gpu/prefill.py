"""Launches the portable prefill kernel."""

from __future__ import annotations

import torch

from hcompile.codegen.triton_gpu.ahead import Source, types_of
from hcompile.codegen.triton_gpu.far_field import FarFieldPrefill
from hcompile.codegen.triton_gpu.far_heads import Splits
from hcompile.codegen.triton_gpu.heads import HeadOrder, HeadOrders, refuse_routed
from hcompile.codegen.triton_gpu.inputs import (
    LOG2_E,
    check_call,
    dense_rows,
    facts_of,
    masked,
)
from hcompile.codegen.triton_gpu.kernels.prefill import prefill
from hcompile.codegen.triton_gpu.launch import Call, Launcher
from hcompile.far_field import FarFields
from hcompile.operator import Kernel, empty_output, refuse_lists
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.templates.gpu_tiles import padded_head


def source(
    schedule: Schedule,
    dtype: str,
    head_dim: int,
    *,
    group: int,
    causal: bool,
    masked: bool,
) -> Source:
    """Return what to compile ahead of time for these calls."""
    constants = {
        "GROUP": group,
        "CAUSAL": causal,
        "HAS_VALID": masked,
        "FAR": False,
        "ROWS": schedule["rows"],
        "KEYS": schedule["keys"],
        "HEAD": head_dim,
        "BLOCK_HEAD": padded_head(head_dim),
    }
    pointers = {
        **dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "o_ptr", "sums", "features", "maps"), dtype),
        "key_mask": "bool" if masked else "int32",
    }
    types = types_of(prefill, constants, pointers, ("biases", "heads", "valid"))
    return Source(prefill, types, constants, schedule["warps"], schedule["stages"])


def bind(schedule: Schedule) -> Kernel:
    """Return the kernel of a schedule."""
    orders, splits, far_fields = HeadOrders(), Splits(), FarFieldPrefill()
    rows, keys = schedule["rows"], schedule["keys"]
    launch = Launcher(prefill, num_warps=schedule["warps"], num_stages=schedule["stages"])

    def kernel(
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
    ) -> torch.Tensor:
        refuse_lists(block_count)
        split = splits.of(head_params, far, q, causal)
        order = orders.known(head_params) if split is None else split.near
        facts = (q_offset, scale, causal, facts_of(q, k, v, key_mask))
        call = launch.ready((order, facts))
        if call is None:
            check_call(q, k, v, key_mask, head_params, scale)
            dense = dense_rows(q), dense_rows(k), dense_rows(v)
            if not (dense[0] is q and dense[1] is k and dense[2] is v):
                return kernel(*dense, key_mask, head_params, q_offset, scale, causal, far=far)
            if not q.numel():
                return empty_output(q)
            order = order or orders.of(head_params)
            refuse_routed(order.list_heads)
        assert order is not None  # A call is ready for an order that is known.
        out = empty_output(q)
        if call is None:
            call = prepare((order, facts), q, k, v, out, key_mask is not None, order, q_offset, scale, causal)
        valid, mask = masked(head_params, key_mask)
        if call.grid[0]:
            launch(call, (), (q, k, v, out, out, out, out), (order.table, order.table, valid, mask))
        if split is not None:
            far_fields(call, out, q, k, v, valid, mask, split, q_offset, scale)
        return out

    def prepare(
        facts: object,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        masked_keys: bool,
        order: HeadOrder,
        q_offset: int,
        scale: float,
        causal: bool,
    ) -> Call:
        (batch, q_heads, q_len, head_dim), (_, kv_heads, kv_len, _) = q.shape, k.shape
        heads, tiles = len(order.windows), -(-q_len // rows)
        return launch.prepare(
            facts,
            q,
            (batch * heads * tiles, 1),
            sizes=(batch, order.long_heads(kv_len), q_len, kv_len, q_offset, tiles, 0, 0),
            scale=scale * LOG2_E,
            strides=(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3]),
            constants=(
                *(q_heads // kv_heads, causal, masked_keys, False),
                *(rows, keys, head_dim, padded_head(head_dim)),
            ),
        )

    return kernel
