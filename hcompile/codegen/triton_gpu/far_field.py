"""Adds the far fields of a call's heads to what a prefill kernel wrote of their near fields."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hcompile.codegen.known import Known
from hcompile.codegen.triton_gpu.ahead import Source, types_of
from hcompile.codegen.triton_gpu.heads import read
from hcompile.codegen.triton_gpu.inputs import facts_of, masked
from hcompile.codegen.triton_gpu.kernels.far_field import CHUNK, add_up, chunk_sums, merge_far
from hcompile.codegen.triton_gpu.launch import Call, Launcher
from hcompile.far_field import FarFields, check_far_fields
from hcompile.patterns import UNBOUNDED
from hcompile.patterns.linear import FEATURES
from hcompile.schedules.templates.gpu_tiles import padded_head

SUM_WARPS = 4
SCAN_WARPS = 4
MERGE_WARPS = 8
MERGE_REGISTERS = 128
"""Of a thread at most: two programs fit a multiprocessor, and heads of more than 64 elements spill some 30 of them."""
STAGES = 1
"""Loads of the next part of a head are not started ahead: programs beside one hide them, and take its room."""
COLUMNS, BLOCK = 16, 256
"""Of sums that are added up at a time, and chunks."""
PART = 64
"""Elements of a head that are computed together: what is multiplied of them stays in registers."""


def sources(dtype: str, head_dim: int, *, group: int, masked: bool) -> list[Source]:
    """Return what to compile ahead of time for these calls."""
    common: dict[str, int | bool] = dict(
        zip(("CHUNK", "HEAD", "BLOCK_HEAD", "PART"), _head_constants(head_dim), strict=True)
    )
    rows = dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "o_ptr"), dtype)
    floats = dict.fromkeys(("sums", "log_sums", "maps"), "float32")
    pointers = {**rows, **floats, "key_mask": "bool" if masked else "int32"}
    found = []
    for kernel, constants, warps in (
        (chunk_sums, {"GROUP": group, "HAS_VALID": masked, **common}, SUM_WARPS),
        (add_up, {"WIDTH": FEATURES * (head_dim + 1), "COLUMNS": COLUMNS, "BLOCK": BLOCK}, SCAN_WARPS),
        (
            merge_far,
            {"GROUP": group, "HAS_VALID": masked, "SPLIT": dtype != "float32", **common},
            MERGE_WARPS,
        ),
    ):
        types = types_of(kernel, constants, pointers, ("heads", "valid"))
        registers = MERGE_REGISTERS if kernel is merge_far else None
        found.append(Source(kernel, types, constants, warps, STAGES, registers))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _FarHeads:
    """Heads with a far field.

    Attributes:
        table: int32 `[R, 3]` on the device of the heads' parameters: head, window, sinks.
        count: R. narrowest: the least window.
    """

    table: torch.Tensor
    count: int
    narrowest: int


class FarFieldAdder:
    """The far fields of the nodes that one kernel is bound to."""

    def __init__(self) -> None:
        self._heads = Known(_by_params)
        self._used = Known(lambda heads: any(_flags(heads)))
        self._captured: list[_FarHeads] = []
        self._sum = Launcher(chunk_sums, num_warps=SUM_WARPS, num_stages=STAGES)
        self._scan = Launcher(add_up, num_warps=SCAN_WARPS, num_stages=STAGES)
        self._merge = Launcher(merge_far, num_warps=MERGE_WARPS, num_stages=STAGES, maxnreg=MERGE_REGISTERS)

    def of(self, far: FarFields | None, q: torch.Tensor, causal: bool) -> FarFields | None:
        """Return the far fields of a call, None where no head uses its maps. Raises: KernelError, as a call does."""
        if far is None:
            return None
        check_far_fields(far, q, causal, FEATURES)
        return far if self._used(far.heads) else None

    def __call__(
        self,
        out: torch.Tensor,
        log_sums: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        key_mask: torch.Tensor | None,
        head_params: torch.Tensor,
        far: FarFields,
        q_offset: int,
    ) -> None:
        """Write into `out` `[B, Hq, Sq, D]`, where the near fields stand; other heads keep what they have.

        Args:
            log_sums: float32 `[B, Hq, Sq]`, dense: the logarithms of the sums of the near weights.
            q, k, v, key_mask, head_params, q_offset: of the operator, checked, with dense rows.

        Raises:
            KernelError: the far fields do not fit the call, or a CUDA graph is being captured, and they or the
                parameters were not seen before.
        """
        known = self._heads(far.heads)(head_params)
        # Up to here, every key lies in the windows or after the query.
        if not known.count or q_offset + q.shape[2] <= known.narrowest or not k.shape[2]:
            return
        capturing = out.is_cuda and torch.cuda.is_current_stream_capturing()
        if capturing and not any(known is each for each in self._captured):
            self._captured.append(known)  # The graph addresses it for as long as it lives.
        maps = far.maps.to(torch.float32).contiguous()
        facts = (known, q_offset, maps.shape, maps.device, out.stride(), facts_of(q, k, v, key_mask))
        call = self._merge.ready(facts)
        if call is None:
            call = self._prepare_merge(facts, out, q, k, v, key_mask is not None, known, q_offset)
        valid, mask = masked(head_params, key_mask)
        sums = q.new_empty(call.workspace, dtype=torch.float32)
        if call.workspace:
            add, scan = self._sum.ready(facts), self._scan.ready(facts)
            if add is None or scan is None:
                add, scan = self._prepare_sums(facts, q, k, v, key_mask is not None, known, q_offset)
            self._sum(add, (), (k, v, sums), (maps, known.table, valid, mask))
            self._scan(scan, (), (sums,), ())
        self._merge(call, (), (q, k, v, out, sums), (log_sums, maps, known.table, valid, mask))

    def _prepare_sums(
        self,
        facts: object,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        masked_keys: bool,
        known: _FarHeads,
        q_offset: int,
    ) -> tuple[Call, Call]:
        batch, kv_len, width = q.shape[0], k.shape[2], FEATURES * (q.shape[3] + 1)
        pairs, before, chunks, _ = _counts(known, q, q_offset)
        add = self._sum.prepare(
            facts,
            q,
            (pairs * chunks, 1),
            sizes=(batch, chunks, before, kv_len, q_offset),
            scale=None,
            strides=(*k.stride()[:3], *v.stride()[:3]),
            constants=(q.shape[1] // k.shape[1], masked_keys, *_head_constants(q.shape[3])),
        )
        scan = self._scan.prepare(
            facts,
            q,
            (pairs * width // COLUMNS, 1),
            sizes=(chunks,),
            scale=None,
            strides=(),
            constants=(width, COLUMNS, BLOCK),
        )
        return add, scan

    def _prepare_merge(
        self,
        facts: object,
        out: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        masked_keys: bool,
        known: _FarHeads,
        q_offset: int,
    ) -> Call:
        (batch, q_heads, q_len, head_dim), (_, kv_heads, kv_len, _) = q.shape, k.shape
        pairs, before, chunks, tiles = _counts(known, q, q_offset)
        return self._merge.prepare(
            facts,
            q,
            (pairs * tiles, 1),
            sizes=(batch, q_heads, chunks, before, q_len, kv_len, q_offset, tiles),
            scale=None,
            strides=(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3]),
            constants=(
                *(q_heads // kv_heads, masked_keys, q.dtype != torch.float32),
                *_head_constants(head_dim),
            ),
            workspace=pairs * chunks * FEATURES * (head_dim + 1),
        )


def _head_constants(head_dim: int) -> tuple[int, int, int, int]:
    """Return CHUNK, HEAD, BLOCK_HEAD and PART."""
    head = padded_head(head_dim)
    return CHUNK, head_dim, head, min(head, PART)


def _counts(known: _FarHeads, q: torch.Tensor, q_offset: int) -> tuple[int, int, int, int]:
    """Return heads of all batch rows, chunks that hold all keys that are far from the first query, whatever the head's
    window, chunks of keys in all, and tiles of queries."""
    before, tiles = -(-max(0, q_offset - known.narrowest + 1) // CHUNK), -(-q.shape[2] // CHUNK)
    return known.count * q.shape[0], before, before + tiles - 1, tiles


def _flags(heads: torch.Tensor) -> list[int]:
    return [flag for (flag,) in read(heads[:, None])]


def _by_params(heads: torch.Tensor) -> Known[_FarHeads]:
    """Return what these heads come to with the parameters of a node, as far as it was asked for."""
    flags = _flags(heads)
    return Known(lambda params: _far_heads(flags, params))


def _far_heads(flags: list[int], head_params: torch.Tensor) -> _FarHeads:
    rows = [
        (head, min(window, UNBOUNDED), min(sinks, UNBOUNDED))
        for head, (window, sinks) in enumerate(read(head_params))
        if flags[head]
    ]
    table = torch.tensor(rows, dtype=torch.int32, device=head_params.device)
    return _FarHeads(table, len(rows), min((window for _, window, _ in rows), default=0))
