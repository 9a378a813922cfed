"""Features of candidates, the machine's facts, and the counts they rest on."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from hcompile.patterns import Dense, Local, Pattern
from hcompile.schedules import Schedule
from hcompile.schedules.templates.tvm_cpu_attention import NAME, visited_tile_pairs
from hcompile.tuning.features import features, work
from hcompile.tuning.machine import Machine
from hcompile.workload import Workload

MACHINE = Machine(threads=2, l1_bytes=32 << 10, l2_bytes=1 << 20, l3_bytes=16 << 20)


def _workload(*heads: Pattern, length: int = 512, dtype: str = "float32") -> Workload:
    return Workload.of(heads, kv_heads=1, head_dim=64, q_len=length, kv_len=length, causal=True, dtype=dtype)


def test_work_counts_the_pairs_of_all_heads() -> None:
    local = Local(100, 10)
    pairs = [pattern.visited_pairs(512, 512, causal=True) for pattern in (Dense(), local, local)]
    assert work(_workload(Dense(), local, local)) == 64 * sum(pairs)


def test_one_row_per_schedule_that_differs_in_the_tile_s_fit() -> None:
    tiles = [{"block_q": size, "block_k": 64, "mr_s": 8} for size in (16, 64)]
    schedules = [Schedule.of(NAME, values) for values in tiles]
    rows = features(_workload(Local(100, 10)), MACHINE, schedules, [[6.0], [8.0]])
    assert rows.shape[0] == 2
    wasted, l1_share = rows[1, 1:3] - rows[0, 1:3]
    assert wasted > 0
    assert l1_share > 0


def test_waste_is_counted_as_the_template_counts_it() -> None:
    schedule, local = Schedule.of(NAME, {"block_q": 32, "block_k": 96, "mr_s": 6}), Local(100, 10)
    row = features(_workload(local, local), MACHINE, [schedule], [[1.0]])[0]
    computed = visited_tile_pairs(schedule, local, 512, 512, causal=True)
    assert row[1] == math.log2(computed / local.visited_pairs(512, 512, causal=True))


def test_workloads_differ_in_shape_mix_and_dtype() -> None:
    schedule = Schedule.of("t", {"block_q": 64, "block_k": 64})
    workloads = [
        _workload(Dense()),
        _workload(Local(100, 10)),
        _workload(Dense(), Local(100, 10)),
        _workload(Dense(), length=1024),
        _workload(Dense(), dtype="bfloat16"),
    ]
    rows = [features(workload, MACHINE, [schedule], [[1.0]])[0].tolist() for workload in workloads]
    assert len({tuple(row) for row in rows}) == len(workloads)
    assert np.isfinite(rows).all()


def test_a_template_without_blocks_has_features_too() -> None:
    rows = features(_workload(Dense()), MACHINE, [Schedule.of("t", {"other": 3})], [[1.0]])
    assert np.isfinite(rows).all()


def _cache(folder: Path, number: int, level: str, kind: str, size: str) -> None:
    index = folder / f"index{number}"
    index.mkdir()
    for name, text in (("level", level), ("type", kind), ("size", size)):
        (index / name).write_text(f"{text}\n")


def test_the_data_caches_of_the_machine_are_read(tmp_path: Path) -> None:
    _cache(tmp_path, 0, "1", "Data", "48K")
    _cache(tmp_path, 1, "1", "Instruction", "32K")
    _cache(tmp_path, 2, "2", "Unified", "2M")
    _cache(tmp_path, 3, "3", "Unified", "260M")
    _cache(tmp_path, 4, "4", "Unified", "1G")
    (tmp_path / "index4" / "size").unlink()
    machine = Machine.current(4, tmp_path)
    assert machine == Machine(4, 48 << 10, 2 << 20, 260 << 20)
    assert Machine.from_json(machine.to_json()) == machine
    assert machine.features()[0] == math.log2(4)


def test_a_machine_that_tells_no_caches_gets_common_ones(tmp_path: Path) -> None:
    assert Machine.current(2, tmp_path) == Machine(threads=2)


def test_a_machine_without_threads_is_refused() -> None:
    with pytest.raises(ValueError, match="machine threads is 0"):
        Machine(threads=0)
