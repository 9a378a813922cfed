"""The tasks of the Hopper prefill kernel: in which order they come, and which keys one sees."""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl


@gluon.jit
def place_of(index, batch, long_heads, long_section, short_heads, short_section, tiles):
    """Return query tile, batch row and place in the order of heads of a task.

    First come the heads that see everything, then the others. Of both, a section of (batch row, head) units goes
    through its tiles together, from the last, longest one on: of heads that see everything as many as leave their
    keys and values in the shared cache, of the others a KV group's.
    """
    heads = long_heads
    section = long_section
    before = 0
    at = index
    if index >= long_heads * batch * tiles:
        heads = short_heads
        section = short_section
        before = long_heads
        at = index - long_heads * batch * tiles
    which = at // (section * tiles)
    rest = at % (section * tiles)
    units = gl.minimum(section, heads * batch - which * section)
    unit = which * section + rest % units
    return tiles - 1 - rest // units, unit // heads, before + unit % heads


@gluon.jit
def ranges_of(
    tile, b, window, sinks, valid, q_len, kv_len, q_offset,
    CAUSAL: gl.constexpr, HAS_VALID: gl.constexpr, ROWS: gl.constexpr, KEYS: gl.constexpr,
):  # fmt: skip
    """Return a task's first position, the end of its sinks, its ranges of keys [first, end_a), [start_b, end_b), and
    how many blocks they have: of the first, of both."""
    first = 0
    end = kv_len
    if HAS_VALID:
        first = gl.load(valid + 3 * b)
        end = gl.load(valid + 3 * b + 1)
    low = q_offset + tile * ROWS
    high = q_offset + gl.minimum(tile * ROWS + ROWS, q_len) - 1
    if CAUSAL:
        end = gl.minimum(end, high + 1)
    sink_end = first + sinks
    end_a = gl.maximum(first, gl.minimum(sink_end, end))
    start_b = gl.maximum(first, low - window + 1)
    end_b = gl.maximum(start_b, gl.minimum(end, high + window))
    if start_b <= end_a:
        end_a = gl.maximum(end_a, end_b)
        start_b = end_b
    blocks_a = (end_a - first + KEYS - 1) // KEYS
    # One hidden block where nothing is visible, so that every task writes its rows.
    blocks = gl.maximum(blocks_a + (end_b - start_b + KEYS - 1) // KEYS, 1)
    return low, sink_end, first, end_a, start_b, end_b, blocks_a, blocks


@gluon.jit
def list_of(at, room, list_count, list_index):
    """Return where the entries of a task's list stand, how many there are, and how many blocks it has: one at least."""
    count = gl.load(list_count + at)
    return list_index + at.to(gl.int64) * room, count, gl.maximum(count, 1)


@gluon.jit
def block_of(
    block,
    first,
    end_a,
    start_b,
    end_b,
    blocks_a,
    listed,
    entries,
    count,
    LISTS: gl.constexpr,
    KEYS: gl.constexpr,
):
    """Return the first key of a task's block, the end of the keys that are seen, and which halves of the rows see it.

    A list without entries has one block, which no half sees.
    """
    key = start_b + (block - blocks_a) * KEYS
    end = end_b
    halves = 3
    if block < blocks_a:
        key = first + block * KEYS
        end = end_a
    if LISTS:
        if listed:
            entry = gl.load(entries + block, mask=block < count, other=0)
            key = (entry >> 2) * KEYS
            end = end_b
            halves = entry & 3
    return key, end, halves
