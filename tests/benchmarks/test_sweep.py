"""The script that records sweeps, with kernels that need no device, and what is to be swept on a GPU."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.sweep import sweep_all
from benchmarks.sweep_targets import TARGETS, SweepTarget
from hcompile.codegen.triton_gpu import ahead
from hcompile.codegen.triton_gpu import backend as triton_gpu
from hcompile.patterns import Dense, Local
from hcompile.schedules.template import get_template
from hcompile.tuning.evaluate import problem_of
from hcompile.tuning.features import compiler_features
from hcompile.tuning.machine import Machine
from hcompile.tuning.replay import Sweep
from hcompile.tuning.timing import Rounds
from hcompile.tuning_db.record import Status
from hcompile.workload import Workload

ROOT = Path(__file__).parents[2]
GPU = Machine(threads=132, l1_bytes=232_448, l2_bytes=50 << 20, l3_bytes=50 << 20)


def workloads() -> Mapping[str, Workload]:
    return {
        name: Workload.of([head], kv_heads=1, head_dim=16, q_len=64, kv_len=64, causal=False, dtype="float32")
        for name, head in (("fake-dense", Dense()), ("fake-window", Local(8, 2)))
    }


FAKE = SweepTarget(
    "tests.tuning.fault_backends:without_ahead",
    workloads,
    Rounds(least=3, most=5, enough_s=0.01),
    slow_factor=2.0,
    close_factor=float("inf"),
    built_at_once=2,
)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(Machine, "current_gpu", classmethod(lambda cls: GPU))


@pytest.mark.slow
@pytest.mark.usefixtures("on_a_gpu")
def test_a_sweep_goes_on_where_it_stopped_and_records_what_was_pruned(tmp_path: Path) -> None:
    cache, results = tmp_path / "cache", tmp_path / "results"
    assert sweep_all(FAKE, results, cache, only="fake-window", build=True) is None
    assert list(results.iterdir()) == []
    unfinished = sweep_all(FAKE, results, cache, only="fake-window", seconds=0)
    assert unfinished == "fake-window: 0 of 5 points are measured: run this again"
    assert sweep_all(FAKE, results, cache, only="fake-window") is None
    (path,) = results.iterdir()
    assert path.name == "sweep-fake-window.json.gz"
    sweep = Sweep.load(path)
    assert (sweep.name, sweep.workload, sweep.template) == (
        "fake-window",
        workloads()["fake-window"],
        "ahead_fault",
    )
    status = {(each.schedule["fault"], each.schedule["delay"]): each.status for each in sweep.points}
    assert sorted(status.values()) == [Status.COMPILE_ERROR, Status.OK, Status.OK, Status.OK, Status.WRONG]
    assert sweep.best().schedule["delay"] == 0
    assert len(sweep.repeats) == 3
    # What did not compile ahead has no features, and no search sees it; what turned out wrong has them.
    assert [bool(row) for row in sweep.features] == [
        each.status is not Status.COMPILE_ERROR for each in sweep.points
    ]
    assert len(problem_of(sweep).points) == 4
    (quick,) = [at for at, each in enumerate(sweep.points) if each.ok and each.schedule["delay"] == 0]
    assert sweep.features[quick][2:] == pytest.approx(compiler_features({"registers": 31, "stack_bytes": 0}))
    assert sweep.recorded["machine"] == GPU.to_json()
    assert sweep.recorded["device"]["kind"] == "cuda"
    before = path.read_bytes()
    assert sweep_all(FAKE, results, cache, only="fake-window") is None
    assert path.read_bytes() == before


@pytest.mark.slow
@pytest.mark.usefixtures("on_a_gpu")
def test_finished_points_are_not_measured_again(tmp_path: Path) -> None:
    cache, results = tmp_path / "cache", tmp_path / "results"
    assert sweep_all(FAKE, results, cache, only="fake-dense", points=2) is None
    (log,) = cache.glob("fake-dense-*.jsonl")
    first = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted({(number, position) for number, position, *_ in first}) == [
        (number, position) for number in range(3) for position in range(2)
    ]
    (results / "sweep-fake-dense.json.gz").unlink()
    assert sweep_all(FAKE, results, cache, only="fake-dense", points=3) is None
    again = [json.loads(line) for line in log.read_text().splitlines()]
    assert again[: len(first)] == first
    assert {position for _, position, *_ in again[len(first) :]} == {2}


@pytest.mark.usefixtures("on_a_gpu")
def test_a_sweep_without_a_right_point_is_no_record(tmp_path: Path) -> None:
    hopeless = replace(FAKE, backend="tests.tuning.fault_backends:hopeless")
    unfinished = sweep_all(hopeless, tmp_path / "results", tmp_path / "cache", only="fake-dense")
    assert unfinished is not None and unfinished.startswith("fake-dense: no point is right, see ")
    assert list((tmp_path / "results").iterdir()) == []


def test_names_of_sweeps_tell_the_targets_apart() -> None:
    cpu, cuda = (set(TARGETS[name].workloads()) for name in ("cpu", "cuda"))
    assert len(cpu) == 6
    assert all(name.startswith("cuda-") for name in cuda)
    assert not any(name.startswith("cuda-") for name in cpu)


def test_a_gpu_s_sweeps_are_small_and_each_length_has_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triton_gpu, "capability", lambda: 90)
    members = (triton_gpu.HOPPER_PREFILL, triton_gpu.TRITON_PREFILL, triton_gpu.TRITON_DECODE)
    found = TARGETS["cuda"].workloads()
    kinds: dict[tuple[object, ...], set[int]] = {}
    for name, workload in found.items():
        (member,) = [each for each in members if each.serves(workload)]
        assert member.template == ("triton_decode" if "decode" in name else "hopper_prefill")
        problem = ahead.problem_of(workload.dtype, workload.head_dim, 90)
        assert len(list(get_template(member.template).space(problem).enumerate())) <= 200
        kinds.setdefault((workload.heads, workload.batch, member.template), set()).add(workload.kv_len)
    assert [len(lengths) for lengths in kinds.values()] == [2] * 6
