"""The space of the CPU attention kernel: how a query tile is cut into register tiles and key blocks.

The kernel (`hcompile.codegen.tvm_cpu.prim_func`) holds queries in vector lanes. It computes scores in register tiles of
`mr_s` keys x `nv_s` vectors of queries, and outputs in register tiles of `mr_o` head elements x `nv_o` vectors of
queries.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from hcompile.patterns import Pattern
from hcompile.schedules.axis import Axis
from hcompile.schedules.schedule import Schedule
from hcompile.schedules.space import Space
from hcompile.schedules.template import Problem, Template, register_template

NAME = "tvm_cpu_attention"
DTYPES = ("bfloat16", "float32")
LARGEST_HEAD_DIM = 256
ACCUMULATORS = 30
"""The most vectors of a register tile: two buffers of 15, since TVM puts a buffer of 1 KiB on the heap."""

_AXES = (
    Axis("lanes", (8, 16), "float32 lanes of a vector"),
    Axis("dot", (0, 1), "whether bfloat16 pairs are multiplied and added in one step"),
    Axis("block_q", (16, 32, 64), "queries of a tile"),
    Axis("block_k", (64, 96, 192), "keys of a block"),
    Axis("mr_s", (4, 6, 8, 12), "keys of a score register tile"),
    Axis("nv_s", (1, 2, 4), "vectors of queries of a score register tile"),
    Axis("mr_o", (4, 8), "head elements of an output register tile"),
    Axis("nv_o", (1, 2, 4), "vectors of queries of an output register tile"),
    Axis("stage", (0, 1), "whether K and V blocks are first copied to scratch"),
)


def supports(dtype: str, head_dim: int) -> bool:
    return dtype in DTYPES and head_dim % 8 == 0 and 8 <= head_dim <= LARGEST_HEAD_DIM


def space(problem: Problem) -> Space:
    """Return the legal schedules of a problem that the template supports."""
    bfloat16 = problem.dtype == "bfloat16"

    def fits(rows: int, vectors: int) -> bool:
        # The accumulators, the vectors of one step, and a broadcast must fit the registers; fewer than 8 accumulators
        # cannot hide the latency of a multiply-add.
        return 8 <= rows * vectors <= min(ACCUMULATORS, problem.vector_registers - vectors - 1)

    def legal(v: Mapping[str, int]) -> bool:
        return (
            v["lanes"] * 32 == problem.vector_bits
            and v["block_q"] % (v["nv_s"] * v["lanes"]) == 0
            and v["block_q"] % (v["nv_o"] * v["lanes"]) == 0
            and v["block_k"] % v["mr_s"] == 0
            and problem.head_dim % v["mr_o"] == 0
            and fits(v["mr_s"], v["nv_s"])
            and fits(v["mr_o"], v["nv_o"])
            # Copying is where bfloat16 becomes float32, or pairs of keys.
            and (v["stage"] == 1 or not bfloat16)
            and (v["dot"] == 0 or _dots(problem))
        )

    default = _default(problem)
    also = default | {"block_k": 192, "nv_s": 1}
    return Space(NAME, _AXES, legal, tuple(default.items()), (tuple(also.items()),))


def visited_tile_pairs(schedule: Schedule, pattern: Pattern, q_len: int, kv_len: int, *, causal: bool) -> int:
    """Count the (query, key) pairs whose scores one head computes, without padding: whole tiles of queries against
    whole register tiles of keys.

    The last query stands at the last key, as in `Pattern.visited_pairs`, which this is at least.
    """
    tiles = (schedule["block_q"], schedule["block_k"], schedule["mr_s"])
    return _tile_pairs(*pattern.params(), *tiles, q_len, kv_len, causal)


@lru_cache(maxsize=4096)  # A tuner asks for every schedule, and most of them share these three sizes.
def _tile_pairs(
    window: int, sinks: int, block_q: int, block_k: int, mr_s: int, q_len: int, kv_len: int, causal: bool
) -> int:
    def computed(keys: int) -> int:
        full, rest = divmod(max(0, keys), block_k)
        return full * block_k + -(-rest // mr_s) * mr_s

    total = 0
    for first in range(kv_len - q_len, kv_len, block_q):
        last = min(first + block_q, kv_len) - 1
        end = min(kv_len, last + 1) if causal else kv_len
        sink_end = min(sinks, end)
        low, high = max(0, first - window + 1), min(end, last + window)
        if low <= sink_end:
            total += computed(max(sink_end, high))
        else:
            total += computed(sink_end) + computed(high - low)
    return total * block_q


def _dots(problem: Problem) -> bool:
    """Return whether the kernel can multiply pairs: of 512-bit vectors, and of eight words to transpose at a time."""
    whole = problem.head_dim % 16 == 0 and problem.vector_bits == 512
    return problem.dtype == "bfloat16" and problem.dot_bfloat16 and whole


def _default(problem: Problem) -> dict[str, int]:
    bfloat16 = problem.dtype == "bfloat16"
    wide = problem.vector_bits == 512
    return {
        "lanes": 16 if wide else 8,
        "dot": int(_dots(problem)),
        "block_q": 32,
        "block_k": 64 if wide and bfloat16 else 96,
        "mr_s": 8 if wide else 6,
        "nv_s": 2,
        "mr_o": 8 if wide else 4,
        "nv_o": 2,
        "stage": int(bfloat16),
    }


register_template(Template(NAME, supports, space, visited_tile_pairs))
