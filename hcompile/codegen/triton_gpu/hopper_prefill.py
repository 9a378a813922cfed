"""Launches the prefill kernel for Hopper."""

from __future__ import annotations

from functools import cache

import torch
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from hcompile.codegen.triton_gpu.ahead import Source, types_of
from hcompile.codegen.triton_gpu.heads import HeadOrders
from hcompile.codegen.triton_gpu.inputs import (
    LOG2_E,
    Counters,
    aligned,
    cache_bytes,
    check_call,
    masked,
    multiprocessors,
    on_device_of,
)
from hcompile.codegen.triton_gpu.kernels.hopper_prefill import REGISTERS, hopper_prefill
from hcompile.errors import KernelError
from hcompile.operator import Kernel, empty_output
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.templates.gpu_tiles import padded_head

WARPS = 4
CACHE_SHARE = 0.6
"""How much of the shared cache the keys and values of heads that are taken together may fill."""
_ELEMENTS = {"bfloat16": gl.bfloat16, "float16": gl.float16}


def source(
    schedule: Schedule,
    dtype: str,
    head_dim: int,
    *,
    group: int,
    causal: bool,
    masked: bool,
    lists: bool = False,
) -> Source:
    """Return what to compile ahead of time for these calls."""
    head = padded_head(head_dim)
    rows, keys = schedule["rows"], schedule["keys"]
    constants = {
        "GROUP": group,
        "CAUSAL": causal,
        "HAS_VALID": masked,
        "LISTS": lists,
        "ROWS": rows,
        "KEYS": keys,
        "HEAD": head,
        "STAGES": schedule["stages"],
        "TURNS": bool(schedule["turns"]),
        "HOLD_Q": bool(schedule["hold_q"]),
        "SHARE": bool(schedule["share"]),
    }
    integers = ("heads", "valid", "list_ptr", "list_index", "counters")
    types = types_of(hopper_prefill, constants, {"key_mask": "bool"}, integers)
    for name, count in (("q_desc", rows // 2), ("k_desc", keys), ("v_desc", keys), ("o_desc", rows // 2)):
        element = {"bfloat16": "bf16", "float16": "fp16"}[dtype]
        types[name] = f"tensordesc<{element}[1,1,{count},{head}],{_layout(count, head, dtype)!r}>"
    return Source(hopper_prefill, types, constants, WARPS, registers=REGISTERS)


@cache
def _layout(count: int, head: int, dtype: str) -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout.get_default_for([1, 1, count, head], _ELEMENTS[dtype])


def _described(tensor: torch.Tensor, count: int, head: int) -> TensorDescriptor:
    layout = _layout(count, head, str(tensor.dtype).removeprefix("torch."))
    return TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), [1, 1, count, head], layout)


def bind(schedule: Schedule) -> Kernel:
    """Return the kernel of a schedule, for bfloat16 and float16."""
    orders, counters = HeadOrders(), Counters()
    rows, keys, stages = (schedule[name] for name in ("rows", "keys", "stages"))
    switches = tuple(bool(schedule[name]) for name in ("turns", "hold_q", "share"))

    def kernel(
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
    ) -> torch.Tensor:
        check_call(q, k, v, key_mask, head_params, scale)
        if str(q.dtype).removeprefix("torch.") not in _ELEMENTS:
            raise KernelError(f"attention: no Hopper kernel for {q.dtype}: use bfloat16 or float16")
        (batch, q_heads, q_len, head_dim), (_, kv_heads, kv_len, _) = q.shape, k.shape
        out = empty_output(q)
        if not out.numel() or not kv_len:
            return out.zero_()
        q, k, v = aligned(q), aligned(k), aligned(v)
        order = orders.of(head_params)
        group, tiles = q_heads // kv_heads, -(-q_len // rows)
        tasks = batch * q_heads * tiles
        long_heads = order.long_heads(kv_len)
        lists, entries = block_ptr, block_index
        if not order.lists:
            lists = entries = head_params
        elif lists is None or entries is None or lists.numel() != tasks + 1:
            raise KernelError(
                f"attention: heads with lists want block_ptr of {tasks + 1} entries, and block_index"
            )
        elif lists.dtype != torch.int32 or entries.dtype != torch.int32:
            raise KernelError(
                f"attention: block_ptr, block_index are {lists.dtype}, {entries.dtype}: wanted int32"
            )
        head = padded_head(head_dim)
        cached = int(CACHE_SHARE * cache_bytes(q.device.index)) // (2 * kv_len * head_dim * k.element_size())
        valid, mask = masked(head_params, key_mask)
        section = min(max(1, cached) * group, batch * q_heads)
        with on_device_of(q):
            hopper_prefill[(min(tasks, multiprocessors(q.device.index)),)](
                _described(q, rows // 2, head),
                _described(k, keys, head),
                _described(v, keys, head),
                _described(out, rows // 2, head),
                *(
                    order.table,
                    valid,
                    mask,
                    lists.contiguous(),
                    entries.contiguous(),
                    counters.of(q.device, 2),
                ),
                *(batch, long_heads, section, q_heads - long_heads, group),
                *(q_len, kv_len, q_offset, tiles, tasks, scale * LOG2_E),
                *(group, causal, key_mask is not None, order.lists, rows, keys, head, stages, *switches),
                num_warps=WARPS,
                maxnreg=REGISTERS,
            )
        return out

    return kernel
