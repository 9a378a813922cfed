"""The space of the CPU attention kernel, and the count of the pairs that its tiles compute."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcompile.patterns import Dense, Local, Pattern
from hcompile.schedules import Schedule
from hcompile.schedules.template import Problem, get_template
from hcompile.schedules.templates.tvm_cpu_attention import NAME, visited_tile_pairs

AVX512 = (512, 32)  # bits and registers
AVX2 = (256, 16)


def problem(
    dtype: str = "float32", head_dim: int = 64, dot: bool = False, vectors: tuple[int, int] = AVX512
) -> Problem:
    return Problem(dtype, head_dim, *vectors, dot_bfloat16=dot)


@pytest.mark.parametrize("head_dim", [8, 40, 64, 128, 256])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("vectors", [AVX512, AVX2])
def test_every_supported_problem_has_a_space_around_its_default(
    dtype: str, head_dim: int, vectors: tuple[int, int]
) -> None:
    space = get_template(NAME).space(problem(dtype, head_dim, dot=True, vectors=vectors))
    points = set(space.enumerate())
    assert space.default() in points and 50 < len(points) < 1000


@pytest.mark.parametrize(
    ("dtype", "head_dim"), [("float16", 64), ("float32", 4), ("float32", 60), ("float32", 264)]
)
def test_other_heads_are_not_supported(dtype: str, head_dim: int) -> None:
    assert not get_template(NAME).supports(dtype, head_dim)


def test_register_tiles_fit_the_registers() -> None:
    for vectors in (AVX512, AVX2):
        for point in get_template(NAME).space(problem(vectors=vectors)).enumerate():
            for rows, width in ((point["mr_s"], point["nv_s"]), (point["mr_o"], point["nv_o"])):
                assert rows * width + width + 1 <= vectors[1]


def test_pairs_are_multiplied_only_where_the_machine_can() -> None:
    def dots(value: Problem) -> set[int]:
        return {point["dot"] for point in get_template(NAME).space(value).enumerate()}

    assert dots(problem("bfloat16", dot=True)) == {0, 1}
    assert dots(problem("bfloat16", dot=False)) == {0}
    assert dots(problem("float32", dot=True)) == {0}
    assert dots(problem("bfloat16", head_dim=40, dot=True)) == {0}
    assert dots(problem("bfloat16", dot=True, vectors=AVX2)) == {0}


patterns = st.one_of(st.just(Dense()), st.builds(Local, st.integers(1, 90), st.integers(0, 40)))
lengths = st.tuples(st.integers(1, 150), st.integers(0, 100)).map(lambda pair: (pair[0], sum(pair)))


@given(patterns, lengths, st.booleans(), st.sampled_from([(8, 8, 4), (16, 12, 4), (32, 64, 8)]))
def test_tile_pairs_are_those_of_whole_tiles_around_the_visited_ones(
    pattern: Pattern, sizes: tuple[int, int], causal: bool, tile: tuple[int, int, int]
) -> None:
    """Compared with counting, for each tile of queries, the keys between the first and last that it sees."""
    q_len, kv_len = sizes
    block_q, block_k, mr_s = tile
    schedule = Schedule.of(NAME, {"block_q": block_q, "block_k": block_k, "mr_s": mr_s})
    counted = visited_tile_pairs(schedule, pattern, q_len, kv_len, causal=causal)
    window, sinks = pattern.params()
    exact = rounded = 0
    for first in range(kv_len - q_len, kv_len, block_q):
        positions = range(first, min(first + block_q, kv_len))
        seen = {
            key
            for key in range(kv_len)
            for position in positions
            if (abs(position - key) < window or key < sinks) and (not causal or key <= position)
        }
        exact += block_q * len(seen)
        # At most one started register tile per range of keys and per block.
        rounded += block_q * (len(seen) + mr_s * (2 + len(seen) // block_k))
    assert exact <= counted <= rounded
    assert counted >= pattern.visited_pairs(q_len, kv_len, causal=causal)


def test_tile_pairs_of_the_headline_workload() -> None:
    """Window 256 and 64 sinks at 8192 tokens in tiles of 32: at most 31 + 7 keys more than the 320 of the pattern."""
    schedule = get_template(NAME).space(problem()).default()
    pattern = Local(256, 64)
    counted = visited_tile_pairs(schedule, pattern, 8192, 8192, causal=True)
    assert 1.05 < counted / pattern.visited_pairs(8192, 8192, causal=True) < (320 + 31 + 7) / 320
