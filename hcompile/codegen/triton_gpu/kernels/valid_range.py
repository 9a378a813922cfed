"""The range of valid keys of each row of a mask, in one launch: torch takes ten for it."""

from __future__ import annotations

import triton
import triton.language as tl

BLOCK = 4096


@triton.jit(do_not_specialize=("key_mask", "valid", "length"))
def valid_range(key_mask, valid, length, BLOCK: tl.constexpr):
    """Write (first valid key, end of the valid ones, whether some between are not) of a row; zeros for an empty one.

    key_mask `[B, length]`, dense; valid int32 `[B, 3]`; one program a row.
    """
    row = tl.program_id(0)
    first = length
    end = length * 0
    count = length * 0
    for start in range(0, length, BLOCK):
        key = start + tl.arange(0, BLOCK)
        seen = tl.load(key_mask + row.to(tl.int64) * length + key, key < length, 0) != 0
        count += tl.sum(seen.to(tl.int32), 0)
        first = tl.minimum(first, tl.min(tl.where(seen, key, length), 0))
        end = tl.maximum(end, tl.max(tl.where(seen, key + 1, 0), 0))
    first = tl.where(count > 0, first, 0)
    tl.store(valid + row * 3, first)
    tl.store(valid + row * 3 + 1, end)
    tl.store(valid + row * 3 + 2, (end - first != count).to(tl.int32))
