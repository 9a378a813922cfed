"""Calls the far fields of a built library: what heads with a linear far field add to their near keys."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from struct import Struct

import torch

from hcompile.errors import EnvironmentFault

# The fields of `FarCall` in far_field.c: pointers, sizes, and strides.
_CALL = Struct("8q 9q 3q 3q 3q 3q q")

FarFieldKernel = Callable[
    [
        torch.Tensor,
        torch.Tensor,
        torch.Tensor,
        torch.Tensor,
        torch.Tensor,
        torch.Tensor | None,
        torch.Tensor,
        torch.Tensor,
        int,
    ],
    None,
]
"""`(out, log_sums, q, k, v, key_mask, maps, rows, q_offset)`, of tensors that were checked.

Merges the far field of the heads in `rows`, int32 `[R, 3]` of (head, window, sinks), into `out`: attention to their
near keys, whose weights add up to the exponential of `log_sums`, float32 `[B, Hq, Sq]`.
"""


def load_far_fields(library: ctypes.CDLL, parallel: int) -> FarFieldKernel:
    """Return the far fields of a library that `build_kernel` made.

    Args:
        parallel: address of `GOMP_parallel`, 0 for one thread.
    """
    run = library.hc_far_field
    run.argtypes = [ctypes.c_char_p]

    def far_fields(
        out: torch.Tensor,
        log_sums: torch.Tensor,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        key_mask: torch.Tensor | None,
        maps: torch.Tensor,
        rows: torch.Tensor,
        q_offset: int,
    ) -> None:
        (batch, q_heads, q_len, _), (_, kv_heads, kv_len, _) = q.shape, k.shape
        q, k, v = (each if each.stride(3) == 1 else each.contiguous() for each in (q, k, v))
        maps, rows = maps.float().contiguous(), rows.contiguous()
        mask = None if key_mask is None else key_mask.contiguous()
        call = _CALL.pack(
            *(out.data_ptr(), log_sums.data_ptr(), q.data_ptr(), k.data_ptr(), v.data_ptr()),
            *(0 if mask is None else mask.data_ptr(), maps.data_ptr(), rows.data_ptr()),
            *(batch, q_heads, kv_heads, len(rows), q_len, kv_len, q_offset),
            *(torch.get_num_threads(), parallel),
            *(*q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3]),
            0 if mask is None else mask.stride(0),
        )
        if out.numel() and len(rows) and run(call):
            raise EnvironmentFault(
                f"attention over {tuple(q.shape)}: no memory for scratch; free some memory"
            )

    return far_fields
