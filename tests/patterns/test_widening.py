"""Windows that widen with the length: what they are at each, and that nothing asks what they see without one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hcompile.patterns import (
    UNBOUNDED,
    Dense,
    GlobalTokens,
    Linear,
    Local,
    Pattern,
    Routed,
    widening_keys,
)

kinds = st.sampled_from([Local, Linear])
lengths = st.integers(1, 2**20)
shares = st.floats(0, 1)


@given(kinds, st.integers(1, UNBOUNDED - 1), lengths, shares)
def test_a_widened_pattern_is_the_same_at_its_length(
    kind: type[Local | Linear], window: int, length: int, share: float
) -> None:
    pattern = kind(window, 16)
    assert pattern.widened(length, share).at(length) == pattern


@given(kinds, st.integers(1, 8192), lengths, shares, lengths)
def test_it_is_narrower_below_and_wider_above(
    kind: type[Local | Linear], window: int, length: int, share: float, other: int
) -> None:
    pattern = kind(window, 4)
    found = pattern.widened(length, share).at(other)
    assert found.widening == 0
    low, high = sorted((found.window, window))
    below = widening_keys(other) <= widening_keys(length)
    assert (low, high) == ((found.window, window) if below else (window, found.window))
    assert found.window >= min(window, 64)


def test_all_of_a_window_beyond_64_keys_follows_the_length() -> None:
    pattern = Local(2048, 16).widened(4096, 1.0)
    assert [pattern.at(length).window for length in (0, 2048, 4096, 8192)] == [64, 1056, 2048, 4032]
    assert [pattern.at(length).window for length in (1, 256, 257, 2047)] == [188, 188, 312, 1056]
    assert Local(64, 16).widened(4096, 1.0) == Local(64, 16)


@pytest.mark.parametrize("pattern", [Dense(), GlobalTokens(64, 64), Routed(900, 200)])
def test_others_stay_as_they_are(pattern: Pattern) -> None:
    assert pattern.widened(4096, 1.0) == pattern and pattern.at(2**20) == pattern and pattern.widening == 0


@given(kinds, st.integers(1, 40), st.integers(0, 40), st.integers(0, 1024), st.integers(1, 60))
def test_counts_are_those_of_the_window_at_the_length(
    kind: type[Local | Linear], window: int, sinks: int, widening: int, length: int
) -> None:
    pattern = kind(window, sinks, widening=widening)
    rigid = pattern.at(length)
    assert rigid == kind(window + widening // 4, sinks)
    assert pattern.visited_pairs(length, length, causal=True) == rigid.visited_pairs(
        length, length, causal=True
    )
    assert pattern.hides(length) == rigid.hides(length)


def test_what_it_sees_is_not_told_without_a_length() -> None:
    position, key = torch.arange(4)[:, None], torch.arange(4)
    for pattern in (Local(2, 1, widening=8), Linear(2, 1, widening=8)):
        with pytest.raises(ValueError, match=r"2\+1\+8/1024: what it sees depends on the length"):
            pattern.visible(position, key, torch.tensor(0))
        assert pattern.at(4).visible(position, key, torch.tensor(0)).shape == (4, 4)


@pytest.mark.parametrize("widening", [-1, 1025, True, 0.5])
def test_a_window_gains_no_more_than_all_keys(widening: Any) -> None:
    with pytest.raises(ValueError, match="widening is"):
        Local(64, 16, widening=widening)
