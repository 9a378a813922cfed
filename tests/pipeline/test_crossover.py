"""What is timed to find the crossover: on a simulated device for the rules, and once for real."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
import torch

from hcompile.pipeline import crossover as measuring
from hcompile.pipeline.crossover import LENGTHS, measure_crossover
from hcompile.program import Program
from hcompile.progress import quiet
from hcompile.runtime.crossover import Crossover
from hcompile.runtime.module import Lowered, graphs_without_padding

AXIS = (0, 1)


@dataclass
class Device:
    """A device and its clock: calls are not run, they take what the two functions say (us, by batch and length).

    Attributes:
        room: tokens of the largest call that it holds.
    """

    dense: Callable[[int, int], float]
    hybrid: Callable[[int, int], float]
    room: int = 2**30
    now_s: float = 0.0
    asked: list[tuple[int, int]] = field(default_factory=list)

    def measure(
        self, program: Program, lowered: Lowered, planned: int, patch: pytest.MonkeyPatch
    ) -> Crossover:
        patch.setattr(measuring, "perf_counter", lambda: self.now_s)
        patch.setattr(measuring, "graph_clock", lambda _: self._us)
        self._dense, _ = graphs_without_padding(program, lowered)
        return measure_crossover(program, lowered, AXIS, planned, quiet)

    def _us(self, call: partial[object]) -> float:
        batch, length = call.args[0].shape
        self.asked.append((batch, length))
        if batch * length > self.room:
            raise torch.OutOfMemoryError
        time_us = (self.dense if call.func is self._dense else self.hybrid)(batch, length)
        self.now_s += time_us / 1e6
        return time_us


def lengths_by_batch(crossover: Crossover) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    for timing in crossover.timings:
        rows.setdefault(timing.batch, []).append(timing.length)
    return rows


@pytest.fixture
def endless(tiny_hybrid: Program) -> Program:
    """`tiny_hybrid` as if it was exported for any length."""
    return tiny_hybrid.replace(dims=dict.fromkeys(tiny_hybrid.dims, (1, None)))


def test_a_small_model_on_a_fast_device_is_measured_beyond_the_planned_length(
    endless: Program, tiny_lowered: Lowered, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host takes 5 ms for the dense graph and 6 for the hybrid one; the device's part is less up to 8192 tokens."""
    device = Device(
        lambda batch, length: max(5000.0, 300e-7 * batch * length**2),
        lambda batch, length: max(6000.0, 100e-7 * batch * length**2),
    )
    crossover = device.measure(endless, tiny_lowered, 8192, monkeypatch)
    assert crossover.hybrid_from == ((1, 16384), (4, 8192), (16, 8192))
    # One row lost with up to 8192 tokens, so more rows are not timed with so few.
    assert lengths_by_batch(crossover) == {1: [*LENGTHS, 16384], 4: [4096, 8192], 16: [1024, 2048]}


def test_a_row_that_never_wins_ends_at_four_times_the_planned_tokens(
    endless: Program, tiny_lowered: Lowered, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(lambda batch, length: 5000.0, lambda batch, length: 6000.0)
    crossover = device.measure(endless, tiny_lowered, 8192, monkeypatch)
    assert crossover.hybrid_from == ((1, None),)
    assert lengths_by_batch(crossover) == {1: [*LENGTHS, 16384, 32768]}


def test_no_call_beyond_the_planned_length_may_be_slow(
    endless: Program, tiny_lowered: Lowered, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(lambda batch, length: length**2 / 64, lambda batch, length: length**2 / 64)
    device.measure(endless, tiny_lowered, 8192, monkeypatch)
    assert (1, 8192) in device.asked and (1, 16384) not in device.asked
    assert all(device.dense(*call) < 2e6 for call in device.asked)


def test_a_device_that_is_full_ends_a_row_and_not_the_others(
    endless: Program, tiny_lowered: Lowered, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(lambda batch, length: 5000.0, lambda batch, length: 6000.0, room=1024)
    crossover = device.measure(endless, tiny_lowered, 8192, monkeypatch)
    assert lengths_by_batch(crossover) == {1: [128, 256, 512, 1024]}
    assert {(1, 2048), (4, 512), (16, 128)} <= set(device.asked)


def test_a_device_without_room_for_the_shortest_call_has_no_crossover(
    endless: Program, tiny_lowered: Lowered, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(lambda batch, length: 1.0, lambda batch, length: 1.0, room=1)
    assert device.measure(endless, tiny_lowered, 8192, monkeypatch) == Crossover()


def test_where_short_calls_win_little_is_measured(
    endless: Program, tiny_lowered: Lowered, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(lambda batch, length: 9.0 * batch * length, lambda batch, length: 5.0 * batch * length)
    crossover = device.measure(endless, tiny_lowered, 8192, monkeypatch)
    assert lengths_by_batch(crossover)[1] == [128, 256]
    assert all(row in ([128], [128, 256]) for row in lengths_by_batch(crossover).values())
    assert {start for _, start in crossover.hybrid_from} == {128}


@pytest.mark.parametrize("gain", [0.5, 0.9, 1.1])
def test_the_other_batches_take_no_longer_than_the_first(
    endless: Program, tiny_lowered: Lowered, monkeypatch: pytest.MonkeyPatch, gain: float
) -> None:
    """Calls are slow, as on a CPU: 100 us a token and a part that grows with the square."""
    spent_s: dict[int, float] = {}
    device = Device(
        lambda batch, length: batch * length * (100 + length / 40),
        lambda batch, length: batch * length * (100 + gain * length / 40) * min(1.0, gain + 0.05),
    )
    device.measure(endless, tiny_lowered, 8192, monkeypatch)
    start = next(place for place, (batch, _) in enumerate([*device.asked, (4, 0)]) if batch > 1)
    for place, (batch, length) in enumerate(device.asked):
        us = min(device.dense(batch, length), device.hybrid(batch, length))
        spent_s[place >= start] = spent_s.get(place >= start, 0.0) + us / 1e6
    assert spent_s.get(True, 0.0) <= spent_s[False]


def test_only_batches_that_the_export_allows_are_measured(
    endless: Program, tiny_lowered: Lowered, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = endless.inputs[0].shape[0]
    few = endless.replace(dims={**endless.dims, str(rows): (2, 8)})
    device = Device(lambda batch, length: 5000.0, lambda batch, length: 4000.0)
    crossover = device.measure(few, tiny_lowered, 512, monkeypatch)
    assert [batch for batch, _ in crossover.hybrid_from] == [2, 4]


@pytest.mark.usefixtures("warm_cache")
def test_a_small_program_is_timed_with_more_than_one_row(tiny_hybrid: Program, tiny_lowered: Lowered) -> None:
    steps: list[tuple[int, int | None]] = []
    crossover = measure_crossover(
        tiny_hybrid, tiny_lowered, AXIS, 512, lambda _, done, total: steps.append((done, total))
    )
    rows = lengths_by_batch(crossover)
    assert rows[1][0] == 128 and set(rows) <= {1, 4, 16}
    assert all(batch * max(row) <= 4 * 512 and max(row) <= 512 for batch, row in rows.items())
    assert all(timing.dense_us > 0 and timing.hybrid_us > 0 for timing in crossover.timings)
    assert steps == sorted(steps) and steps[-1][0] == steps[-1][1]
