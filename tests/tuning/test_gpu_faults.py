"""The benchmark of faults on a GPU, tried on a CPU, and what it rests on."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from benchmarks import gpu_fault_backend as faults
from benchmarks.gpu_faults import complaints_of, run
from hcompile.codegen import get_backend
from hcompile.schedules import Schedule
from hcompile.tuning.bench import Bench
from hcompile.tuning.measure import MeasureLimits
from hcompile.tuning_db.record import Record, Status
from tests.tuning import fault_backends
from tests.tuning.test_measure import ROOT


def test_two_hundred_bad_candidates_are_of_every_kind_and_no_two_are_the_same() -> None:
    ones = list(faults.bad_ones(200))
    assert len(set(ones)) == 200
    assert set(faults.WANTED) == {faults.RIGHT, *(kind for kind, _ in ones)}
    assert min(Counter(kind for kind, _ in ones).values()) >= 6
    points = list(faults.GpuFaults("cpu").space(faults.WORKLOAD).enumerate())
    assert len(points) == 200 + faults.RIGHT_ONES


def test_what_is_not_as_it_has_to_be_is_told() -> None:
    key = faults.twin.record_key(faults.WORKLOAD)

    def schedule(kind: int) -> str:
        return Schedule.of("gpu_fault", {"fault": kind, "number": 0}).text

    right = Record.timed(key, schedule(faults.RIGHT), [1.0], max_err=0.0, tolerance=1.0, run_id="test")
    late = Record.failed(key, schedule(faults.SEGFAULT), Status.TIMEOUT, "no answer", run_id="test")
    wrong = Record.failed(key, schedule(faults.WRONG), Status.WRONG, "error", run_id="test")
    assert complaints_of([right, wrong], right, "", 1) == []
    assert "2 of 3" in complaints_of([right, wrong, late], right, "", 3)[0]
    assert "timeout, no answer" in complaints_of([right, late], right, "", 1)[0]
    assert len(complaints_of([wrong], None, "no schedule is valid", 1)) == 2


@pytest.mark.slow
def test_bad_candidates_on_a_cpu_are_all_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(faults.twin, "bad", 6)
    limits = MeasureLimits(check_s=8, workers=1)
    measured = run(faults.twin, "benchmarks.gpu_fault_backend:twin", limits, 300)
    assert measured["complaints"] == []
    assert measured["recorded"] == 6 + faults.RIGHT_ONES


def test_a_process_that_measures_warms_its_backend_up_and_one_that_builds_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    warmed: list[bool] = []
    rivals = get_backend("tests.tuning.fault_backends:rivals")
    member = get_backend("tests.tuning.fault_backends:slow")
    assert member in rivals.members and type(member).__name__ == fault_backends.Rival.__name__
    monkeypatch.setattr(member, "warm_up", lambda: warmed.append(True))
    Bench("tests.tuning.fault_backends:rivals", torch.get_num_threads(), measures=False)
    assert warmed == []
    Bench("tests.tuning.fault_backends:rivals", torch.get_num_threads())
    assert warmed == [True]


def test_the_twin_s_artifacts_hold_the_schedule(tmp_path: Path) -> None:
    path = faults.twin.build(faults.twin.safe_schedule("bfloat16", 128), "bfloat16", 128, tmp_path)
    assert callable(faults.twin.load(path))
