"""Triton kernels that misbehave when told so; told otherwise they are harmless, by which they are compiled ahead."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def spin(out_ptr, stop_ptr):
    """Store 1 once `stop_ptr` points to something else than 0: never, where nobody writes there."""
    stop = tl.load(stop_ptr, volatile=True)
    while stop == 0:
        stop = tl.load(stop_ptr, volatile=True)
    tl.store(out_ptr, 1)


@triton.jit
def store_at(out_ptr, offset_ptr):
    """Store 1 at an offset in elements, which is read from memory: one compiled kernel has it near and far."""
    tl.store(out_ptr + tl.load(offset_ptr), 1)
