"""What GPU kernels make of a pattern: whole tiles of queries against whole blocks of keys."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from hcompile.patterns import Pattern
from hcompile.schedules.schedule import Schedule

DTYPES = ("bfloat16", "float16")
ELEMENT_BYTES = 2
LARGEST_HEAD_DIM = 256


def supports(dtype: str, head_dim: int) -> bool:
    return dtype in DTYPES and head_dim % 8 == 0 and 16 <= head_dim <= LARGEST_HEAD_DIM


def padded_head(head_dim: int) -> int:
    """Return the power of two that a kernel computes a head of this size in, 16 at least for the matrix unit."""
    return max(16, 1 << (head_dim - 1).bit_length())


def tile_pairs(schedule: Schedule, pattern: Pattern, q_len: int, kv_len: int, *, causal: bool) -> int:
    """Count the (query, key) pairs whose scores one head computes, without padding.

    The last query stands at the last key, as in `Pattern.visited_pairs`, which this is at least.
    """
    if pattern.reads_lists:  # It reads whole blocks, of as many pairs as were measured.
        return pattern.visited_pairs(q_len, kv_len, causal=causal)
    rows = dict(schedule.values).get("rows", q_len)  # A decode kernel takes all queries in one tile.
    return _tile_pairs(*pattern.params(), rows, schedule["keys"], q_len, kv_len, causal)


@lru_cache(maxsize=4096)
def _tile_pairs(window: int, sinks: int, rows: int, keys: int, q_len: int, kv_len: int, causal: bool) -> int:
    total = 0
    for low in range(kv_len - q_len, kv_len, rows):
        high = min(low + rows, kv_len) - 1
        end = high + 1 if causal else kv_len
        end_a, start_b, end_b = min(sinks, end), max(0, low - window + 1), min(end, high + window)
        spans = (end_a, end_b - start_b) if start_b > end_a else (max(end_a, end_b), 0)
        total += sum(-(-max(0, span) // keys) * keys for span in spans)
    return total * rows


def registers(values: Mapping[str, int], head: int) -> int:
    """Return the registers of a thread that a warpgroup's half of a tile takes: scores, output, and weights twice.

    With `hold_q` the queries stand there too.
    """
    rows, keys = values["rows"] // 2, values["keys"]
    words = rows * keys + rows * head + 2 * rows * keys // 2 + values["hold_q"] * rows * head // 2
    return words // 128
