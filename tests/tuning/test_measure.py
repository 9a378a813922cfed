"""Measuring in real child processes, with candidates that misbehave in every way we could think of."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hcompile.errors import EnvironmentFault
from hcompile.patterns import Dense, Local
from hcompile.schedules import Schedule
from hcompile.tuning.measure import MeasureLimits, Measurer
from hcompile.tuning.measurement import Measurement
from hcompile.tuning.timing import Rounds
from hcompile.tuning_db.record import Status
from hcompile.workload import Workload
from tests.tuning import fault_backends as faults

ROOT = Path(__file__).parents[2]
BACKEND = "tests.tuning.fault_backends:backend"
WORKLOAD = Workload.of(
    [Dense(), Local(64, 4), Local(64, 4), Local(96, 0)],
    kv_heads=2,
    head_dim=16,
    q_len=384,
    kv_len=384,
    causal=True,
    dtype="float32",
)


def fault(kind: int) -> Schedule:
    return Schedule.of("fault", {"fault": kind, "delay": 0})


@pytest.fixture(scope="module")
def measurer() -> Iterator[Measurer]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        with Measurer(BACKEND, 2, MeasureLimits(memory_bytes=4 << 30, workers=2)) as opened:
            yield opened


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[Measurer]:
    """Allows a candidate two seconds a step."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with Measurer(BACKEND, 2, MeasureLimits(build_s=2, check_s=2, time_s=60, workers=1)) as opened:
        yield opened


def _right_again(measurer: Measurer) -> bool:
    return measurer.measure(WORKLOAD, fault(faults.RIGHT)).ok


def test_right_candidate_is_checked_and_timed(measurer: Measurer) -> None:
    measured = measurer.measure(WORKLOAD, fault(faults.RIGHT))
    assert measured.status is Status.OK
    assert measured.max_err is not None
    assert measured.tolerance is not None
    assert measured.max_err <= measured.tolerance
    assert len(measured.times_us) >= 5


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        (faults.SEGFAULT, Status.CRASH, "SIGSEGV"),
        (faults.LATE_SEGFAULT, Status.CRASH, "SIGSEGV"),
        (faults.WRONG, Status.WRONG, "above the tolerance"),
        (faults.NAN, Status.WRONG, "error inf is above the tolerance"),
        (faults.UNWRITTEN, Status.WRONG, "error inf is above the tolerance"),
        (faults.OVERWRITES, Status.CRASH, "the kernel wrote to its inputs"),
        (faults.MEMORY, Status.OUT_OF_MEMORY, "can't allocate memory"),
        (faults.BUILD_ERROR, Status.COMPILE_ERROR, "the compiler says no"),
    ],
)
def test_bad_candidate_becomes_a_failed_measurement_and_the_next_one_is_measured(
    measurer: Measurer, kind: int, status: Status, message: str
) -> None:
    measured = measurer.measure(WORKLOAD, fault(kind))
    assert measured.status is status
    assert message in measured.message
    assert measured.times_us == ()
    assert _right_again(measurer)


@pytest.mark.parametrize("kind", [faults.HANG, faults.BUILD_HANG])
def test_candidate_that_hangs_is_ended_at_its_time_limit(impatient: Measurer, kind: int) -> None:
    measured = impatient.measure(WORKLOAD, fault(kind))
    assert measured.status is Status.TIMEOUT
    assert measured.message == "no answer within 2 s"


def test_a_build_that_fails_spoils_none_that_is_built_beside_it(measurer: Measurer) -> None:
    kinds = [faults.BUILD_ERROR, faults.RIGHT, faults.WRONG]
    measurer.build(WORKLOAD, [fault(kind) for kind in kinds])
    statuses = [measurer.measure(WORKLOAD, fault(kind)).status for kind in kinds]
    assert statuses == [Status.COMPILE_ERROR, Status.OK, Status.WRONG]


def test_candidates_are_timed_against_each_other_and_keep_their_errors(measurer: Measurer) -> None:
    first = measurer.measure(WORKLOAD, fault(faults.RIGHT))
    again = measurer.retime(WORKLOAD, [first, first])
    assert [len(each.times_us) for each in again] == [len(again[0].times_us)] * 2
    assert {each.max_err for each in again} == {first.max_err}


def test_finalists_keep_their_times_when_one_of_them_crashes_now(measurer: Measurer) -> None:
    pair = [Measurement(fault(kind), Status.OK, (5.0,)) for kind in (faults.RIGHT, faults.SEGFAULT)]
    assert measurer.retime(WORKLOAD, pair) == pair


def test_slow_candidate_is_timed_by_one_call(measurer: Measurer) -> None:
    assert len(measurer.measure(WORKLOAD, fault(faults.RIGHT), Rounds(limit_us=0.001)).times_us) == 1


def test_built_files_are_gone_with_the_measurer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with Measurer(BACKEND, 1) as opened:
        opened.build(WORKLOAD, [fault(faults.RIGHT)])
        assert list(tmp_path.rglob("*.json"))
    assert list(tmp_path.iterdir()) == []


def test_folders_that_killed_processes_left_are_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / "hcompile-tuning-killed"
    left.mkdir()
    os.utime(left, (0, 0))
    with Measurer(BACKEND, 1):
        assert left not in tmp_path.iterdir()


def test_a_backend_that_cannot_be_loaded_is_the_environment_s_fault() -> None:
    told = pytest.raises(
        EnvironmentFault, match=r"^a measuring process does not start .*cannot be loaded.*doctor$"
    )
    with Measurer("tests.tuning.no_such_backend:backend", 1) as opened, told:
        opened.build(WORKLOAD, [fault(faults.RIGHT)])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no signal for it")
def test_workers_end_when_their_parent_is_killed() -> None:
    code = (
        "from tests.tuning.test_measure import *\n"
        f"m = Measurer({BACKEND!r}, 1)\n"
        "m.build(WORKLOAD, [fault(faults.RIGHT)])\n"
        "print(m._pool._workers[0]._process.pid, flush=True)\n"
        "m.measure(WORKLOAD, fault(faults.HANG))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        worker = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
    ended, _, _ = select.select([worker], [], [], 20)
    os.close(worker)
    assert ended
