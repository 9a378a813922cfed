"""Launches attention for the heads of a call that have linear far fields, near keys and far ones together."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hcompile.codegen.triton_gpu.ahead import Source, types_of
from hcompile.codegen.triton_gpu.far_heads import Split
from hcompile.codegen.triton_gpu.heads import HeadOrder
from hcompile.codegen.triton_gpu.inputs import LOG2_E
from hcompile.codegen.triton_gpu.kernels.far_field import CHUNK, add_up, chunk_sums
from hcompile.codegen.triton_gpu.kernels.prefill import prefill
from hcompile.codegen.triton_gpu.launch import MOST_CALLS, Call, Launcher
from hcompile.patterns.linear import FEATURES
from hcompile.schedules.templates.gpu_tiles import padded_head

SUM_WARPS = 4
SCAN_WARPS = 4
COLUMNS, BLOCK = 16, 256
"""Of sums that are added up at a time, and chunks."""
ROWS = 64


@dataclass(frozen=True, slots=True)
class Tiles:
    """How keys are gone through.

    Attributes:
        keys: of a block.
        stages: blocks of near keys in shared memory; warps: of the program that goes through them, and how many
            registers its threads may take, None to leave it to the compiler.
    """

    keys: int
    stages: int
    warps: int
    registers: int | None


def tiles(head_dim: int) -> Tiles:
    """Return tiles that fit the shared memory of every GPU."""
    head = padded_head(head_dim)
    if head > 128:
        return Tiles(32, 1, 8, None)
    return Tiles(64, 2, 4, 128 if head <= 64 else None)


def sources(dtype: str, head_dim: int, *, group: int, masked: bool) -> list[Source]:
    """Return what to compile ahead of time for these calls."""
    head, chosen = padded_head(head_dim), tiles(head_dim)
    size = {"HEAD": head_dim, "BLOCK_HEAD": head}
    pointers = {
        **dict.fromkeys(("q_ptr", "k_ptr", "v_ptr", "o_ptr", "maps"), dtype),
        **dict.fromkeys(("sums", "biases"), "float32"),
        "features": str(features_dtype(getattr(torch, dtype))).removeprefix("torch."),
        "key_mask": "bool" if masked else "int32",
    }
    found = []
    for kernel, constants, warps, stages, registers in (
        (chunk_sums, {"GROUP": group, "HAS_VALID": masked, "KEYS": chosen.keys, **size}, SUM_WARPS, 1, None),
        (
            add_up,
            {"WIDTH": FEATURES * (head_dim + 1), "COLUMNS": COLUMNS, "BLOCK": BLOCK},
            SCAN_WARPS,
            1,
            None,
        ),
        (
            prefill,
            {
                "GROUP": group,
                "CAUSAL": True,
                "HAS_VALID": masked,
                "FAR": True,
                "ROWS": ROWS,
                "KEYS": chosen.keys,
                **size,
            },
            chosen.warps,
            chosen.stages,
            chosen.registers,
        ),
    ):
        types = types_of(kernel, constants, pointers, ("heads", "valid"))
        found.append(Source(kernel, types, constants, warps, stages, registers))
    return found


@dataclass(frozen=True, slots=True, eq=False)
class _Calls:
    """The launches of a call.

    Attributes:
        sums: of `chunk_sums` and of `add_up`, None where all keys lie in the windows.
        chunks: of all heads and batch rows.
    """

    attend: Call
    launch: Launcher
    sums: tuple[Call, Call] | None
    chunks: int
    features_dtype: torch.dtype


class FarFieldPrefill:
    """The heads with far fields of the nodes that one kernel is bound to."""

    def __init__(self) -> None:
        self._sum = Launcher(chunk_sums, num_warps=SUM_WARPS, num_stages=1)
        self._scan = Launcher(add_up, num_warps=SCAN_WARPS, num_stages=1)
        self._attend: dict[Tiles, Launcher] = {}
        self._ready: dict[Call, _Calls] = {}

    def __call__(
        self,
        near: Call,
        out: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        valid: torch.Tensor,
        mask: torch.Tensor,
        split: Split,
        q_offset: int,
        scale: float,
    ) -> None:
        """Write the heads with far fields of `out` `[B, Hq, Sq, D]`.

        Args:
            near: the call of the other heads: calls that share it share these launches too.
            q, k, v, q_offset, scale: of the operator, checked, with dense rows; there are queries.
            valid, mask: of `inputs.masked`.
        """
        calls = self._ready.get(near)
        if calls is None:
            calls = self._prepare(near, out, q, k, v, mask.dtype == torch.bool, split.far, q_offset, scale)
            if len(self._ready) >= MOST_CALLS:
                self._ready.clear()
            self._ready[near] = calls
        chunks, others = calls.chunks, (split.biases, split.far.table, valid, mask)
        sums = q.new_empty(chunks * FEATURES * (q.shape[3] + 1), dtype=torch.float32)
        features = q.new_empty(chunks * CHUNK * FEATURES, dtype=calls.features_dtype)
        if calls.sums is not None:
            self._sum(calls.sums[0], (), (k, v, sums, features, split.maps), others)
            self._scan(calls.sums[1], (), (sums,), ())
        calls.launch(calls.attend, (), (q, k, v, out, sums, features, split.maps), others)

    def _prepare(
        self,
        near: Call,
        out: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        masked_keys: bool,
        heads: HeadOrder,
        q_offset: int,
        scale: float,
    ) -> _Calls:
        (batch, q_heads, q_len, head_dim), (_, kv_heads, kv_len, _) = q.shape, k.shape
        before, chunks = _chunks(heads, q, q_offset)
        pairs, query_tiles, width = len(heads.windows) * batch, -(-q_len // ROWS), FEATURES * (head_dim + 1)
        chosen = tiles(head_dim)
        group, head = q_heads // kv_heads, padded_head(head_dim)
        launch = self._launcher(chosen)
        attend = launch.prepare(
            near,
            q,
            (pairs * query_tiles, 1),
            sizes=(batch, heads.long_heads(kv_len), q_len, kv_len, q_offset, query_tiles, chunks, before),
            scale=scale * LOG2_E,
            strides=(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3]),
            constants=(group, True, masked_keys, True, ROWS, chosen.keys, head_dim, head),
        )
        sums = None
        if chunks:
            add = self._sum.prepare(
                near,
                q,
                (pairs * chunks, 1),
                sizes=(batch, chunks, before, kv_len, q_offset),
                scale=None,
                strides=(*k.stride()[:3], *v.stride()[:3]),
                constants=(group, masked_keys, chosen.keys, head_dim, head),
            )
            scan = self._scan.prepare(
                near,
                q,
                (pairs * width // COLUMNS, 1),
                sizes=(chunks,),
                scale=None,
                strides=(),
                constants=(width, COLUMNS, BLOCK),
            )
            sums = add, scan
        return _Calls(attend, launch, sums, pairs * chunks, features_dtype(q.dtype))

    def _launcher(self, chosen: Tiles) -> Launcher:
        if chosen not in self._attend:
            limit = {} if chosen.registers is None else {"maxnreg": chosen.registers}
            self._attend[chosen] = Launcher(
                prefill, num_warps=chosen.warps, num_stages=chosen.stages, **limit
            )
        return self._attend[chosen]


def features_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return what features of keys are kept as between two kernels: float16 has not their range."""
    return dtype if dtype == torch.bfloat16 else torch.float32


def _chunks(heads: HeadOrder, q: torch.Tensor, q_offset: int) -> tuple[int, int]:
    """Return the chunks that hold all keys that are far from the first query, whatever the head's window, and those of
    keys in all: none where no key is far from any query."""
    narrowest = heads.windows[-1]
    if q_offset + q.shape[2] <= narrowest:
        return 0, 0
    before = -(-max(0, q_offset - narrowest + 1) // CHUNK)
    return before, before + -(-q.shape[2] // CHUNK)
