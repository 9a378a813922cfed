"""Launches the decode kernel."""

from __future__ import annotations

from functools import cache

import torch

from hcompile.codegen.triton_gpu import prefill
from hcompile.codegen.triton_gpu.ahead import SHARED_BYTES, Source, problem_of, types_of
from hcompile.codegen.triton_gpu.heads import Unrouted
from hcompile.codegen.triton_gpu.inputs import (
    LOG2_E,
    Counters,
    check_call,
    dense_rows,
    facts_of,
    masked,
)
from hcompile.codegen.triton_gpu.kernels.decode import decode
from hcompile.codegen.triton_gpu.launch import Call, Launcher
from hcompile.errors import KernelError
from hcompile.far_field import FarFields
from hcompile.operator import Kernel, empty_output, refuse_lists
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.template import get_template
from hcompile.schedules.templates import triton_prefill
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
        "SPLITS": _power_of_two(schedule["splits"]),
        "KEYS": schedule["keys"],
        "HEAD": head_dim,
        "BLOCK_HEAD": block_head,
    }
    pointers = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "o_ptr"), dtype)
    pointers |= {"key_mask": "bool" if masked else "int32", "partial": "float32"}
    types = types_of(decode, constants, pointers, ("head_params", "valid", "table", "arrived"))
    return Source(decode, types, constants, schedule["warps"], schedule["stages"])


def tile_rows(group: int, q_len: int) -> int:
    """Return the rows of a tile: those of the queries, in a power of two, and 16 at least for the matrix unit."""
    return max(16, _power_of_two(group * q_len))


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


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


@cache
def _with_far_fields(head_dim: int) -> Kernel:
    """Return the kernel that stands in where heads have far fields, by a schedule that fits every GPU."""
    least = min(SHARED_BYTES, key=SHARED_BYTES.__getitem__)
    space = get_template(triton_prefill.NAME).space(problem_of("bfloat16", head_dim, least))
    return prefill.bind(space.default())


def bind(schedule: Schedule) -> Kernel:
    """Return the kernel of a schedule, for calls of at most `MOST_ROWS` rows a KV head.

    With `table`, int32 `[B, pages a sequence]`, `k` and `v` are pages `[pages, Hkv, PAGE, D]`; that the pages it names
    are there is not checked. With `early`, no kernel just before a call may write `head_params`.
    """
    keys, splits, early = schedule["keys"], schedule["splits"], bool(schedule["early"])
    counters, unrouted = Counters(), Unrouted()
    launch = Launcher(
        decode,
        num_warps=schedule["warps"],
        num_stages=schedule["stages"],
        **({"launch_pdl": True} if early else {}),
    )

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
        table: torch.Tensor | None = None,
    ) -> torch.Tensor:
        refuse_lists(block_count)
        if far is not None:
            if table is not None:
                raise KernelError("decode: far fields are not read from pages: give a cache")
            whole = _with_far_fields(q.shape[3])
            return whole(q, k, v, key_mask, head_params, q_offset, scale, causal, far=far)
        more = None if table is None else (table.shape, table.stride(), table.dtype, table.device)
        params = head_params.shape, head_params.dtype, head_params.device
        facts = (params, more, q_offset, scale, causal, facts_of(q, k, v, key_mask))
        call = launch.ready(facts)
        if call is None:
            page = 0 if table is None else k.shape[2]
            kv_len = q_offset + q.shape[2] if page else k.shape[2]
            check_call(q, k, v, key_mask, head_params, scale, kv_len if page else None)
            if table is not None:
                _check_table(table, q, kv_len, page)
            if not q.numel():
                return empty_output(q)
            unrouted.check(head_params)
            dense = dense_rows(q), dense_rows(k), dense_rows(v)
            if not (dense[0] is q and dense[1] is k and dense[2] is v):
                return kernel(*dense, key_mask, head_params, q_offset, scale, causal, table=table)
        else:
            unrouted.check(head_params)
        out = empty_output(q)
        if call is None:
            masked_keys = key_mask is not None
            call = prepare(facts, q, k, v, out, masked_keys, q_offset, scale, causal, table)
        head_params = head_params.contiguous()
        valid, mask = masked(head_params, key_mask)
        partial = q.new_empty(call.workspace, dtype=torch.float32)
        pages = head_params if table is None else table
        arrived = counters.of(q, call.grid[1])
        launch(call, (), (q, k, v, out, partial), (head_params, valid, mask, pages, arrived))
        return out

    def prepare(
        facts: object,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        out: torch.Tensor,
        masked_keys: bool,
        q_offset: int,
        scale: float,
        causal: bool,
        table: torch.Tensor | None,
    ) -> Call:
        (batch, q_heads, q_len, head_dim), kv_heads = q.shape, k.shape[1]
        group, pairs = q_heads // kv_heads, batch * kv_heads
        rows = tile_rows(group, q_len)
        if rows > MOST_ROWS:
            raise KernelError(f"decode of {q_len} queries by {group} heads a group: use a prefill kernel")
        if pairs > _MOST_PAIRS:
            raise KernelError(
                f"decode of {batch} sequences with {kv_heads} KV heads: wanted {_MOST_PAIRS} pairs at most"
            )
        page, table_row = (0, 0) if table is None else (k.shape[2], table.stride(0))
        kv_len = q_offset + q_len if page else k.shape[2]
        return launch.prepare(
            facts,
            q,
            (splits, pairs),
            sizes=(kv_heads, q_len, kv_len, q_offset, splits, table_row),
            scale=scale * LOG2_E,
            strides=(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3]),
            constants=(
                *(group, rows, causal, masked_keys, page, early),
                *(_power_of_two(splits), keys, head_dim, padded_head(head_dim)),
            ),
            workspace=pairs * splits * rows * (padded_head(head_dim) + 2),
        )

    return kernel
