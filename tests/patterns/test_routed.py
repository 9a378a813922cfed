"""Routed heads: what a plan says of them, and what is counted."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hcompile.patterns import Dense, Local, Routed, parse_pattern, pattern_of_label
from hcompile.patterns.blocks import LIST_BLOCK
from hcompile.plan import Plan
from hcompile.routing import pairs_read
from hcompile.site import Site


@pytest.mark.parametrize("pattern", [Routed(900), Routed(0, 0), Routed(1000, 1000), Routed(950, 137)])
def test_json_and_label_give_the_pattern_back(pattern: Routed) -> None:
    assert parse_pattern(pattern.to_json()) == pattern_of_label(pattern.label()) == pattern


@pytest.mark.parametrize(
    "fields", [{"share": -1}, {"share": 1001}, {"share": 0.9}, {"share": 900, "kept": 2000}, {}]
)
def test_a_rule_out_of_range_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="routed"):
        parse_pattern({"family": "routed", **fields})


def test_pairs_are_those_measured_and_half_of_the_sampled_ones() -> None:
    dense = Dense().visited_pairs(8192, 8192, causal=True)
    assert Routed(900, 250).visited_pairs(8192, 8192, causal=True) == dense * 250 // 1000 + dense // 16
    # Not measured, it may read all.
    assert Routed(900).visited_pairs(8192, 8192, causal=True) == dense
    # A short sequence is read whole.
    assert Routed(900, 0).visited_pairs(128, 128, causal=True) == Dense().visited_pairs(128, 128, causal=True)


def test_a_measured_share_is_rounded_up() -> None:
    assert Routed(900).measured(0.1231) == Routed(900, 124)
    assert Local(64, 4).measured(0.1) == Local(64, 4)


def test_times_come_from_the_least_and_the_most_that_can_be_read() -> None:
    assert Routed(900, 250).timed_as() == ((0.75, Routed(0)), (0.25, Routed(1000)))
    assert Routed(900, 123).alike() == Routed(200)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("q_len", "offset", "kv_len"), [(200, 0, 200), (70, 30, 100), (64, 64, 128), (1, 5, 6)]
)
def test_pairs_of_blocks_are_counted_one_by_one(q_len: int, offset: int, kv_len: int, causal: bool) -> None:
    blocks = (-(-q_len // LIST_BLOCK), -(-kv_len // LIST_BLOCK))
    chosen = torch.rand(1, 2, *blocks, generator=torch.Generator().manual_seed(0)) < 0.6
    query, key = torch.arange(q_len)[:, None], torch.arange(kv_len)
    seen = chosen[:, :, query // LIST_BLOCK, key // LIST_BLOCK]
    if causal:
        seen = seen & (key <= query + offset)
    assert torch.equal(pairs_read(chosen, offset, q_len, kv_len, causal), seen.sum((2, 3)))


def test_a_head_with_a_window_of_its_own_is_not_routed() -> None:
    site = Site("site", 0, 1, 1, 64, 0.1, causal=True, window=512)
    with pytest.raises(ValueError, match="more than the model's own window"):
        Plan.of({"site": [Routed(0)]}).check([site])
