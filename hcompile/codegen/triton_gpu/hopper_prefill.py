"""Launches the prefill kernel for Hopper."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from triton.experimental.gluon import language as gl

from hcompile.codegen.triton_gpu.ahead import Source, types_of
from hcompile.codegen.triton_gpu.descriptors import Described
from hcompile.codegen.triton_gpu.far_field import FarFieldPrefill
from hcompile.codegen.triton_gpu.far_heads import Splits
from hcompile.codegen.triton_gpu.heads import HeadOrder, HeadOrders
from hcompile.codegen.triton_gpu.inputs import (
    LOG2_E,
    Counters,
    aligned,
    cache_bytes,
    check_call,
    facts_of,
    masked,
    multiprocessors,
)
from hcompile.codegen.triton_gpu.kernels.hopper_prefill import REGISTERS, hopper_prefill
from hcompile.codegen.triton_gpu.launch import Call, Launcher
from hcompile.codegen.triton_gpu.route import Router
from hcompile.errors import KernelError
from hcompile.far_field import FarFields
from hcompile.operator import Kernel, empty_output
from hcompile.patterns.blocks import LIST_BLOCK, LIST_QUERIES
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.templates.gpu_tiles import padded_head
from hcompile.schedules.templates.hopper_prefill import list_schedule, reads_lists

WARPS = 4
CACHE_SHARE = 0.6
"""How much of the shared cache the keys and values of heads that are taken together may fill."""
_ELEMENTS = {torch.bfloat16: gl.bfloat16, torch.float16: gl.float16}


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
    integers = ("heads", "valid", "list_count", "list_index", "counters")
    pointers = {"key_mask": "bool" if masked else "int32"}
    types = types_of(hopper_prefill, constants, pointers, integers)
    for name, count in (("q_desc", rows // 2), ("k_desc", keys), ("v_desc", keys), ("o_desc", rows // 2)):
        element = {"bfloat16": "bf16", "float16": "fp16"}[dtype]
        layout = _layout(count, head, getattr(torch, dtype))
        types[name] = f"tensordesc<{element}[1, 1, {count}, {head}],{layout!r}>"
    return Source(hopper_prefill, types, constants, WARPS, registers=REGISTERS)


@cache
def _layout(count: int, head: int, dtype: torch.dtype) -> gl.NVMMASharedLayout:
    return gl.NVMMASharedLayout.get_default_for([1, 1, count, head], _ELEMENTS[dtype])


def _checked(
    count: torch.Tensor, index: torch.Tensor | None, q: torch.Tensor, list_heads: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a call's lists as the kernel reads them. Raises: KernelError when they do not fit it."""
    wanted = q.shape[0], list_heads, -(-q.shape[2] // LIST_QUERIES)
    if index is None or count.shape != wanted or index.shape[:-1] != wanted:
        given = None if index is None else tuple(index.shape)
        raise KernelError(
            f"attention: block_count is {tuple(count.shape)}, block_index {given}: wanted {wanted}, and with entries"
        )
    if count.dtype != torch.int32 or index.dtype != torch.int32:
        raise KernelError(
            f"attention: block_count, block_index are {count.dtype}, {index.dtype}: wanted int32"
        )
    if count.device != q.device or index.device != q.device:
        raise KernelError(f"attention: q is on {q.device}, and its lists are not: move all to one device")
    return count.contiguous(), index.contiguous()


@cache
def _with_lists(head_dim: int) -> Kernel:
    """Return the kernel that stands in where a schedule's tiles are none of lists."""
    return bind(list_schedule(head_dim))


def bind(schedule: Schedule) -> Kernel:
    """Return the kernel of a schedule, for bfloat16 and float16.

    Calls with heads that read lists run by `list_schedule` where the schedule's tiles are not those of lists.
    """
    orders, splits = HeadOrders(), Splits()
    counters, route, far_fields = Counters(), Router(), FarFieldPrefill()
    rows, keys, stages = (schedule[name] for name in ("rows", "keys", "stages"))
    serves_lists = reads_lists(schedule)
    switches = tuple(bool(schedule[name]) for name in ("turns", "hold_q", "share"))
    launch = Launcher(hopper_prefill, num_warps=WARPS, maxnreg=REGISTERS)

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
        split = splits.of(head_params, far, q, causal)
        order = orders.known(head_params) if split is None else split.near
        room = None if block_index is None else block_index.shape[-1:]
        facts = (q_offset, scale, causal, room, facts_of(q, k, v, key_mask))
        call = launch.ready((order, facts))
        if call is None or (q.data_ptr() | k.data_ptr() | v.data_ptr()) & 15:
            check_call(q, k, v, key_mask, head_params, scale)
            if q.dtype not in _ELEMENTS:
                raise KernelError(f"attention: no Hopper kernel for {q.dtype}: use bfloat16 or float16")
            if not q.numel() or not k.shape[2]:
                return empty_output(q).zero_()
            copies = aligned(q), aligned(k), aligned(v)
            if not (copies[0] is q and copies[1] is k and copies[2] is v):
                return kernel(
                    *copies, key_mask, head_params, q_offset, scale, causal, block_count, block_index, far
                )
            order = order or orders.of(head_params)
            if order.list_heads and not serves_lists:
                other = _with_lists(q.shape[3])
                return other(
                    q, k, v, key_mask, head_params, q_offset, scale, causal, block_count, block_index, far
                )
            call = prepare((order, facts), q, k, v, key_mask, order, q_offset, scale, causal, room)
        assert order is not None  # A call is ready for an order that is known.
        valid, mask = masked(head_params, key_mask)
        count = index = head_params
        if order.list_heads:
            if block_count is None:
                count, index = route((order, facts), q, k, valid, mask, order, q_offset, scale, causal)
            else:
                count, index = _checked(block_count, block_index, q, order.list_heads)
        out = empty_output(q)
        if call.grid[0]:
            others = (order.table, valid, mask, count, index, counters.of(q, 2))
            launch(call, (q, k, v, out), (), others)
        if split is not None:
            far_fields(call, out, q, k, v, valid, mask, split, q_offset, scale)
        return out

    def prepare(
        facts: object,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        key_mask: torch.Tensor | None,
        order: HeadOrder,
        q_offset: int,
        scale: float,
        causal: bool,
        room: Sequence[int] | None,
    ) -> Call:
        (batch, q_heads, q_len, head_dim), (_, kv_heads, kv_len, _) = q.shape, k.shape
        head = padded_head(head_dim)
        heads, group, tiles = len(order.windows), q_heads // kv_heads, -(-q_len // rows)
        tasks, long_heads = batch * heads * tiles, order.long_heads(kv_len)
        cached = int(CACHE_SHARE * cache_bytes(q.device.index)) // (2 * kv_len * head_dim * k.element_size())
        section = max(1, min(max(1, cached) * group, batch * heads))
        return launch.prepare(
            facts,
            q,
            (min(tasks, multiprocessors(q.device.index)), 1),
            sizes=(
                *(batch, long_heads, section, heads - long_heads, group),
                *(q_len, kv_len, q_offset, tiles, tasks),
                *(order.list_heads, *(room or (-(-kv_len // LIST_BLOCK),))),
            ),
            scale=scale * LOG2_E,
            strides=(),
            constants=(
                *(group, causal, key_mask is not None, order.list_heads > 0),
                *(rows, keys, head, stages, *switches),
            ),
            described=tuple(
                Described([1, 1, count, head], _layout(count, head, q.dtype))
                for count in (rows // 2, keys, keys, rows // 2)
            ),
        )

    return kernel
