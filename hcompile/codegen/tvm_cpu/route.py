"""Calls the router of a built library: which blocks of keys the routed heads of a call read."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from struct import Struct

import torch

from hcompile.errors import EnvironmentFault
from hcompile.lists import Lists
from hcompile.patterns.blocks import LIST_BLOCK, LIST_QUERIES

# The fields of `Route` in route.c: pointers, sizes, strides, and the scale.
_ROUTE = Struct("6q 11q 3q 3q q d")

Router = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor, int, float, bool], Lists]
"""As `hcompile.routing.route`, of tensors that were checked; the routed heads are int32 `[R, 2]`, head and share."""


def load_router(library: ctypes.CDLL, parallel: int) -> Router:
    """Return the router of a library that `build_kernel` made.

    Args:
        parallel: address of `GOMP_parallel`, 0 for one thread.
    """
    run = library.hc_route
    run.argtypes = [ctypes.c_char_p]

    def router(
        q: torch.Tensor,
        k: torch.Tensor,
        key_mask: torch.Tensor | None,
        rules: torch.Tensor,
        q_offset: int,
        scale: float,
        causal: bool,
    ) -> Lists:
        (batch, q_heads, q_len, _), (_, kv_heads, kv_len, _) = q.shape, k.shape
        q, k = (each if each.stride(3) == 1 else each.contiguous() for each in (q, k))
        mask = None if key_mask is None else key_mask.contiguous()
        room = -(-kv_len // LIST_BLOCK)
        count = torch.empty((batch, len(rules), -(-q_len // LIST_QUERIES)), dtype=torch.int32)
        index = torch.empty((*count.shape, room), dtype=torch.int32)
        call = _ROUTE.pack(
            *(q.data_ptr(), k.data_ptr(), 0 if mask is None else mask.data_ptr(), rules.data_ptr()),
            *(count.data_ptr(), index.data_ptr()),
            *(batch, q_heads, kv_heads, len(rules), q_len, kv_len, q_offset, causal, room),
            *(torch.get_num_threads(), parallel),
            *(*q.stride()[:3], *k.stride()[:3], 0 if mask is None else mask.stride(0)),
            scale,
        )
        if count.numel() and run(call):
            raise EnvironmentFault(
                f"attention over {tuple(q.shape)}: no memory for scratch; free some memory"
            )
        return count, index

    return router
