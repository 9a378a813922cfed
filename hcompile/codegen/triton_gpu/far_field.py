"""Launches attention for the heads of a call that have linear far fields, near keys and far ones together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch

from hcompile.codegen.known import Known
from hcompile.codegen.triton_gpu.ahead import Source, types_of
from hcompile.codegen.triton_gpu.heads import HeadOrder, order_of, read, refuse_capture
from hcompile.codegen.triton_gpu.inputs import LOG2_E, check_params, facts_of
from hcompile.codegen.triton_gpu.kernels.far_field import CHUNK, add_up, chunk_sums
from hcompile.codegen.triton_gpu.kernels.prefill import prefill
from hcompile.codegen.triton_gpu.launch import Call, Launcher
from hcompile.far_field import FarFields, check_far_fields
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
        "features": "bfloat16" if dtype == "bfloat16" else "float32",
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
class Split:
    """The heads of a call, some of which have far fields.

    Attributes:
        near: those without one. far: those with one.
        maps, biases: of the call, as the kernels read them.
    """

    near: HeadOrder
    far: HeadOrder
    maps: torch.Tensor
    biases: torch.Tensor


class FarFieldPrefill:
    """The heads with far fields of the nodes that one kernel is bound to."""

    def __init__(self) -> None:
        self._splits = Known(_by_params)
        self._used = Known(lambda heads: any(_flags(heads)))
        self._maps: dict[torch.dtype, Known[tuple[torch.Tensor, torch.Tensor]]] = {}
        self._captured: list[object] = []
        self._sum = Launcher(chunk_sums, num_warps=SUM_WARPS, num_stages=1)
        self._scan = Launcher(add_up, num_warps=SCAN_WARPS, num_stages=1)
        self._attend: dict[Tiles, Launcher] = {}

    def split(
        self, head_params: torch.Tensor, far: FarFields | None, q: torch.Tensor, causal: bool
    ) -> Split | None:
        """Return the heads of a call, None where none has a far field.

        Raises:
            KernelError: the far fields or the parameters do not fit the call, or a CUDA graph is being captured, and
                they were not seen before.
        """
        if far is None:
            return None
        check_far_fields(far, q, causal, FEATURES)
        if not self._used(far.heads):
            return None
        check_params(head_params, q.shape[1])
        heads = self._splits(far.heads)(head_params)
        if q.dtype not in self._maps:
            self._maps[q.dtype] = Known(partial(_in_two, q.dtype))
        maps = self._maps[q.dtype](far.maps)
        if head_params.is_cuda and torch.cuda.is_current_stream_capturing():
            for each in (heads, maps):
                if not any(each is kept for kept in self._captured):
                    self._captured.append(each)  # The graph addresses it for as long as it lives.
        return Split(*heads, *maps)

    def __call__(
        self,
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
            q, k, v, q_offset, scale: of the operator, checked, with dense rows; there are queries and keys.
            valid, mask: of `inputs.masked`.
        """
        heads, key_mask = split.far, mask if mask.dtype == torch.bool else None
        facts = heads, q_offset, scale, out.stride(), facts_of(q, k, v, key_mask)
        chosen = tiles(q.shape[3])
        if chosen not in self._attend:
            limit = {} if chosen.registers is None else {"maxnreg": chosen.registers}
            self._attend[chosen] = Launcher(
                prefill, num_warps=chosen.warps, num_stages=chosen.stages, **limit
            )
        attend = self._attend[chosen]
        call = attend.ready(facts)
        if call is None:
            call = _prepare(attend, facts, out, q, k, v, key_mask is not None, heads, q_offset, scale)
        chunks, others = call.workspace, (split.biases, heads.table, valid, mask)
        sums = q.new_empty(chunks * FEATURES * (q.shape[3] + 1), dtype=torch.float32)
        features = q.new_empty(
            chunks * CHUNK * FEATURES, dtype=q.dtype if q.dtype == torch.bfloat16 else torch.float32
        )
        if chunks:
            add, scan = self._sum.ready(facts), self._scan.ready(facts)
            if add is None or scan is None:
                add, scan = self._prepare_sums(facts, q, k, v, key_mask is not None, heads, q_offset)
            self._sum(add, (), (k, v, sums, features, split.maps), others)
            self._scan(scan, (), (sums,), ())
        attend(call, (), (q, k, v, out, sums, features, split.maps), others)

    def _prepare_sums(
        self,
        facts: object,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        masked_keys: bool,
        heads: HeadOrder,
        q_offset: int,
    ) -> tuple[Call, Call]:
        (batch, _, _, head_dim), kv_len = q.shape, k.shape[2]
        before, chunks = _chunks(heads, q, q_offset)
        pairs, width = len(heads.windows) * batch, FEATURES * (head_dim + 1)
        add = self._sum.prepare(
            facts,
            q,
            (pairs * chunks, 1),
            sizes=(batch, chunks, before, kv_len, q_offset),
            scale=None,
            strides=(*k.stride()[:3], *v.stride()[:3]),
            constants=(
                *(q.shape[1] // k.shape[1], masked_keys),
                *(tiles(head_dim).keys, head_dim, padded_head(head_dim)),
            ),
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


def _prepare(
    attend: Launcher,
    facts: object,
    out: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    masked_keys: bool,
    heads: HeadOrder,
    q_offset: int,
    scale: float,
) -> Call:
    (batch, q_heads, q_len, head_dim), (_, kv_heads, kv_len, _) = q.shape, k.shape
    before, chunks = _chunks(heads, q, q_offset)
    pairs, query_tiles = len(heads.windows) * batch, -(-q_len // ROWS)
    return attend.prepare(
        facts,
        q,
        (pairs * query_tiles, 1),
        sizes=(batch, heads.long_heads(kv_len), q_len, kv_len, q_offset, query_tiles, chunks, before),
        scale=scale * LOG2_E,
        strides=(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3]),
        constants=(
            *(q_heads // kv_heads, True, masked_keys, True),
            *(ROWS, tiles(head_dim).keys, head_dim, padded_head(head_dim)),
        ),
        workspace=pairs * chunks,
    )


def _chunks(heads: HeadOrder, q: torch.Tensor, q_offset: int) -> tuple[int, int]:
    """Return the chunks that hold all keys that are far from the first query, whatever the head's window, and those of
    keys in all: none where no key is far from any query."""
    narrowest = heads.windows[-1]
    if q_offset + q.shape[2] <= narrowest:
        return 0, 0
    before = -(-max(0, q_offset - narrowest + 1) // CHUNK)
    return before, before + -(-q.shape[2] // CHUNK)


def _flags(heads: torch.Tensor) -> list[int]:
    return [flag for (flag,) in read(heads[:, None])]


def _by_params(heads: torch.Tensor) -> Known[tuple[HeadOrder, HeadOrder]]:
    """Return how these heads split the parameters of a node, as far as it was asked for."""
    flags = _flags(heads)

    def split(head_params: torch.Tensor) -> tuple[HeadOrder, HeadOrder]:
        rows = list(enumerate(read(head_params)))
        near, far = ([row for row in rows if bool(flags[row[0]]) is wanted] for wanted in (False, True))
        return order_of(near, head_params.device), order_of(far, head_params.device)

    return Known(split)


def _in_two(dtype: torch.dtype, maps: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return maps as the kernels read them: what queries and keys are multiplied with as the sum of two of their dtype
    `[Hq, 2, 2, F, D]`, and float32 `[Hq, 2, F]`. Raises: KernelError while a CUDA graph is being captured."""
    refuse_capture(maps)
    maps = maps.to(torch.float32)
    weights = maps[..., :-1]
    upper = weights.to(dtype)
    lower = (weights - upper.to(torch.float32)).to(dtype)
    return torch.stack([upper, lower], dim=2).contiguous(), maps[..., -1].contiguous()
