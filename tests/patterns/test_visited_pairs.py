"""The count of visited pairs is exact, and costs nothing at any length."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hcompile.patterns import Dense, GlobalTokens, Linear, Local, Pattern
from hcompile.patterns.base import clipped_sum
from hcompile.patterns.linear import FEATURES

sizes = st.integers(1, 40)
patterns = st.one_of(
    st.just(Dense()), st.builds(Local, sizes, st.integers(0, 40)), st.builds(GlobalTokens, sizes, sizes)
)


def counted(pattern: Pattern, q_len: int, kv_len: int, causal: bool) -> int:
    position = (torch.arange(q_len) + kv_len - q_len)[:, None]
    key = torch.arange(kv_len)
    seen = pattern.visible(position, key, torch.tensor(0))
    if causal:
        seen = seen & (key <= position)
    return int(seen.sum())


@given(patterns, st.integers(1, 32), st.integers(0, 32), st.booleans())
def test_prefill_and_decode_counts_equal_brute_force(
    pattern: Pattern, q_len: int, earlier: int, causal: bool
) -> None:
    kv_len = q_len + earlier
    assert pattern.visited_pairs(q_len, kv_len, causal=causal) == counted(pattern, q_len, kv_len, causal)


@given(patterns, st.integers(1, 32), st.integers(1, 32), st.booleans())
def test_more_queries_than_keys_are_counted_too(
    pattern: Pattern, q_len: int, kv_len: int, causal: bool
) -> None:
    assert pattern.visited_pairs(q_len, kv_len, causal=causal) == counted(pattern, q_len, kv_len, causal)


@given(sizes, st.integers(0, 40), st.integers(1, 400), st.integers(0, 40))
def test_a_linear_head_counts_what_it_sees_and_its_features(
    window: int, sinks: int, q_len: int, earlier: int
) -> None:
    kv_len = q_len + earlier
    pattern = Linear(window, sinks)
    dense = Dense().visited_pairs(q_len, kv_len, causal=True)
    wanted = dense
    if window + sinks < kv_len:
        wanted = min(dense, counted(pattern, q_len, kv_len, causal=True) + FEATURES * (q_len + kv_len))
    assert pattern.visited_pairs(q_len, kv_len, causal=True) == wanted


@given(st.integers(-20, 20), st.integers(0, 40), st.integers(0, 12))
def test_clipped_sum_is_the_sum_of_clipped_integers(first: int, count: int, limit: int) -> None:
    assert clipped_sum(first, count, limit) == sum(min(max(x, 0), limit) for x in range(first, first + count))


@pytest.mark.parametrize("causal", [True, False])
def test_counting_does_not_walk_the_positions(causal: bool) -> None:
    length = 2**60
    assert Local(256, 64).visited_pairs(length, length, causal=causal) >= 256 * (length - 256)
    assert Local(256, 64).visited_pairs(1, length, causal=causal) == 256 + 64


def test_a_window_that_covers_everything_counts_as_dense() -> None:
    for causal in (True, False):
        assert Local(50, 0).visited_pairs(50, 50, causal=causal) == Dense().visited_pairs(
            50, 50, causal=causal
        )
