"""Predicted node times: from uniform nodes, over lengths, measuring only what is asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hcompile.patterns import Dense, Local
from hcompile.site import Site
from hcompile.tuning.latency import LatencyTable
from hcompile.workload import Workload

SITE = Site("attention", 0, 8, 2, 64, 0.125, True)
OVERHEAD_US = 20.0


class Model:
    """Times that follow the pairs exactly: a constant for a node, and a nanosecond for every pair beyond the first."""

    def __init__(self) -> None:
        self.asked: list[Workload] = []

    def __call__(self, workload: Workload) -> float:
        self.asked.append(workload)
        return OVERHEAD_US + sum(
            count * (pattern.visited_pairs(workload.q_len, workload.kv_len, causal=True) - 1) / 1000
            for pattern, count in workload.heads
        )


def test_a_mixed_node_is_the_sum_of_its_heads_and_one_overhead() -> None:
    model = Model()
    table = LatencyTable(model, dtype="float32")
    heads = (Dense(), *(Local(256, 64),) * 4, *(Local(1024, 16),) * 3)
    measured = model(
        Workload.of(heads, kv_heads=2, head_dim=64, q_len=4096, kv_len=4096, causal=True, dtype="float32")
    )
    assert table.predict_node_us(heads, SITE, 4096) == pytest.approx(measured, rel=1e-6)


@pytest.mark.parametrize("pattern", [Dense(), Local(256, 64)], ids=["dense", "local"])
@given(length=st.integers(600, 8192))
def test_lengths_between_the_measured_ones_are_interpolated(pattern: Dense | Local, length: int) -> None:
    table = LatencyTable(Model(), dtype="float32")
    exact = pattern.visited_pairs(length, length, causal=True) / 1000
    assert table.head_us(pattern, SITE, length) == pytest.approx(exact, rel=0.05)


def test_only_uniform_nodes_are_measured_and_each_once() -> None:
    model = Model()
    table = LatencyTable(model, dtype="bfloat16", batch=2)
    for length in (4096, 4096, 3000, 2048):
        table.predict_node_us((Dense(), Local(256, 64)), SITE, length)
    assert all(len(workload.heads) == 1 and workload.batch == 2 for workload in model.asked)
    assert len(set(model.asked)) == len(model.asked)
    assert {workload.kv_len for workload in model.asked} == {1, 2048, 4096}


def test_a_window_that_holds_every_key_is_measured_as_dense() -> None:
    model = Model()
    table = LatencyTable(model, dtype="float32")
    assert table.head_us(Local(1024, 4), SITE, 1024) == table.head_us(Dense(), SITE, 1024)
    assert {pattern for workload in model.asked for pattern, _ in workload.heads} == {Dense()}


def test_no_head_is_free_where_noise_hides_it() -> None:
    table = LatencyTable(lambda workload: 20.0 - workload.kv_len / 1000, dtype="float32")
    assert table.head_us(Dense(), SITE, 64) > 0
