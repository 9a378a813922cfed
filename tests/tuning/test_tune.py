"""Tuning through real measuring processes into a real database file, with candidates that misbehave."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hcompile.codegen import get_backend
from hcompile.errors import KernelError
from hcompile.patterns import Dense, Local
from hcompile.site import Site
from hcompile.tuning.measure import MeasureLimits
from hcompile.tuning.search import SearchOptions
from hcompile.tuning.tune import TuneOptions, Tuner, representatives
from hcompile.tuning_db.record import Record, Status
from hcompile.tuning_db.store import TuningDB, open_db
from hcompile.workload import Workload
from tests.tuning import fault_backends as faults
from tests.tuning.test_measure import ROOT, WORKLOAD, fault

HARMLESS = "tests.tuning.fault_backends:harmless"
ALL = SearchOptions(strategy="random", trials=100, patience=100)
ONE = MeasureLimits(workers=1)
OPTIONS = TuneOptions(ALL, ONE)
SIZE = 7  # Points of the harmless space: five right ones, two faults.


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the measuring processes import the test backend."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def outcome(db: TuningDB, tuner: Tuner, backend: faults.FaultBackend) -> Any:
    """Return what is stored of a finished search, None where there is none."""
    points = tuple(backend.space(WORKLOAD).enumerate())
    return db.get_result(tuner._finish_key(backend.record_key(WORKLOAD), points))


@pytest.fixture
def db(tmp_path: Path) -> Iterator[TuningDB]:
    with open_db(tmp_path / "tuning.sqlite") as opened:
        yield opened


def test_no_bad_candidate_is_chosen_or_fatal_and_all_are_recorded(db: TuningDB) -> None:
    limits = MeasureLimits(build_s=2, check_s=6, time_s=30, memory_bytes=4 << 30, workers=2)
    with Tuner("tests.tuning.fault_backends:backend", db, TuneOptions(ALL, limits)) as tuner:
        best = tuner.tune(WORKLOAD)
    assert json.loads(best.schedule)["values"] == {"fault": faults.RIGHT, "delay": 0}
    seen = {json.loads(record.schedule)["values"]["fault"]: record.status for record in db.records()}
    assert seen == {
        faults.RIGHT: Status.OK,
        faults.HANG: Status.TIMEOUT,
        faults.SEGFAULT: Status.CRASH,
        faults.WRONG: Status.WRONG,
        faults.NAN: Status.WRONG,
        faults.MEMORY: Status.OUT_OF_MEMORY,
        faults.BUILD_ERROR: Status.COMPILE_ERROR,
        faults.BUILD_HANG: Status.TIMEOUT,
        faults.UNWRITTEN: Status.WRONG,
        faults.OVERWRITES: Status.CRASH,
        faults.LATE_SEGFAULT: Status.CRASH,
    }


def test_a_second_run_measures_nothing_and_starts_no_process(db: TuningDB) -> None:
    with Tuner(HARMLESS, db, OPTIONS) as tuner:
        first = tuner.tune(WORKLOAD)
        assert tuner.measured == SIZE
        assert outcome(db, tuner, faults.harmless)["winner"] == first.schedule
    with Tuner(HARMLESS, db, OPTIONS) as tuner:
        assert tuner.tune(WORKLOAD) == first
        assert tuner.choose(WORKLOAD, [faults.harmless.space(WORKLOAD).default()]).median_us is not None
        assert tuner.measured == 0
        assert tuner._measurer._pool._workers == [None] * len(tuner._measurer._pool._workers)


def test_an_interrupted_run_goes_on_where_it_stopped(db: TuningDB) -> None:
    def interrupt(done: int, most: int, best_us: float | None) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with Tuner(HARMLESS, db, OPTIONS, progress=interrupt) as tuner, pytest.raises(KeyboardInterrupt):
        tuner.tune(WORKLOAD)
    assert db.count() == 3
    with Tuner(HARMLESS, db, OPTIONS) as tuner:
        tuner.tune(WORKLOAD)
        assert tuner.measured == SIZE - 3


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = tmp_path / "killed.sqlite"
    code = (
        "from tests.tuning.test_tune import *\n"
        "tell = lambda done, most, best_us: print(done, flush=True)\n"
        f"Tuner(HARMLESS, open_db({str(path)!r}), OPTIONS, progress=tell).tune(WORKLOAD)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment
    ) as child:
        assert child.stdout is not None
        told = [child.stdout.readline() for _ in range(2)]
        child.kill()
    assert told == ["1\n", "2\n"]
    with open_db(path) as db:
        kept = db.count()
        assert 2 <= kept < SIZE
        with Tuner(HARMLESS, db, OPTIONS) as tuner:
            tuner.tune(WORKLOAD)
            assert tuner.measured == SIZE - kept


def test_other_options_search_on_from_what_is_known(db: TuningDB) -> None:
    few = TuneOptions(SearchOptions(strategy="random", trials=3), ONE)
    with Tuner(HARMLESS, db, few) as tuner:
        tuner.tune(WORKLOAD)
        assert tuner.measured == 3
    with Tuner(HARMLESS, db, OPTIONS) as tuner:
        tuner.tune(WORKLOAD)
        assert tuner.measured == SIZE - 3


@pytest.mark.parametrize(
    ("limit_s", "then"), [pytest.param(2.0, Status.TIMEOUT, marks=pytest.mark.slow), (60.0, Status.OK)]
)
def test_a_later_run_measures_once_more_what_a_bad_moment_may_have_failed(
    db: TuningDB, limit_s: float, then: Status
) -> None:
    def run(build_s: float) -> int:
        limits = MeasureLimits(build_s=build_s, workers=1)
        with Tuner("tests.tuning.fault_backends:laggard", db, TuneOptions(ALL, limits)) as tuner:
            tuner.tune(WORKLOAD)
            measured = tuner.measured
            tuner.tune(WORKLOAD)
            assert tuner.measured == measured
            return measured

    def statuses() -> list[Status]:
        return sorted(record.status for record in db.records())

    assert (run(2.0), statuses()) == (2, [Status.OK, Status.TIMEOUT])
    assert (run(limit_s), statuses()) == (1, sorted([Status.OK, then]))
    assert run(2.0) == 0


def test_the_model_learns_from_other_workloads(db: TuningDB) -> None:
    other = Workload.of(
        [Dense()], kv_heads=1, head_dim=16, q_len=512, kv_len=512, causal=True, dtype="float32"
    )
    with Tuner(HARMLESS, db, TuneOptions(SearchOptions(trials=6), ONE)) as tuner:
        tuner.tune(other)
        costs = tuner._prior(faults.harmless, faults.harmless.record_key(WORKLOAD))[1]
        assert len(costs) == sum(record.status is Status.OK for record in db.records()) > 0
        assert len(tuner._prior(faults.harmless, faults.harmless.record_key(other))[1]) == 0


def test_time_is_up_after_the_first_batch_of_every_workload_and_its_search_is_not_finished(
    db: TuningDB,
) -> None:
    hurried = TuneOptions(SearchOptions(strategy="random", time_limit_s=1e-6), ONE)
    with Tuner(HARMLESS, db, hurried) as tuner:
        tuner.tune(WORKLOAD)
        assert tuner.measured == hurried.search.batch
        assert outcome(db, tuner, faults.harmless) is None


def test_a_workload_without_a_right_schedule_is_a_kernel_error(db: TuningDB) -> None:
    told = pytest.raises(
        KernelError, match=r"no schedule of .* is valid \((error|RuntimeError).*\): see hcompile"
    )
    with Tuner("tests.tuning.fault_backends:hopeless", db, OPTIONS) as tuner:
        with told:
            tuner.tune(WORKLOAD)
        assert outcome(db, tuner, faults.hopeless) is None


def test_choosing_measures_what_is_missing_and_takes_the_fastest(db: TuningDB) -> None:
    slow, quick = faults.harmless.space(WORKLOAD).default(), fault(faults.RIGHT)
    key = faults.harmless.record_key(WORKLOAD)
    db.add(Record.failed(key, quick.text, Status.TIMEOUT, "no answer within 60 s", run_id="another"))
    with Tuner(HARMLESS, db, OPTIONS) as tuner:
        assert tuner.choose(WORKLOAD, [slow]).schedule == slow.text
        assert tuner.choose(WORKLOAD, [slow, quick]).schedule == quick.text
        assert tuner.measured == 2
        with pytest.raises(KernelError, match="above the tolerance"):
            tuner.choose(WORKLOAD, [fault(faults.WRONG)])


def test_representatives_are_dense_local_and_mostly_local() -> None:
    site = Site("attention", 0, 6, 2, 64, 0.125, True)
    labels = [
        workload.label().partition(": ")[2] for workload in representatives(site, 3000, dtype="float32")
    ]
    assert labels == ["6 dense", "6 local 256+64", "1 dense, 5 local 256+64"]


def test_a_site_of_one_head_has_no_mix() -> None:
    site = Site("attention", 0, 1, 1, 64, 0.125, True)
    workloads = representatives(site, 4096, dtype="float32")
    assert [workload.heads for workload in workloads] == [((Dense(), 1),), ((Local(256, 64), 1),)]


RIVALS = "tests.tuning.fault_backends:rivals"


def test_code_generators_compete_and_each_keeps_its_own_records(db: TuningDB) -> None:
    with Tuner(RIVALS, db, OPTIONS) as tuner:
        best = tuner.tune(WORKLOAD)
        assert (best.key.backend, json.loads(best.schedule)["template"]) == ("faults_cpu", "fault")
        assert tuner.measured == SIZE + 1
        assert {record.key.template for record in db.records()} == {"fault", "slow_fault"}
        tuner.tune(WORKLOAD)
        assert tuner.measured == SIZE + 1


def test_the_faster_of_two_generators_schedules_is_chosen_where_both_serve(db: TuningDB) -> None:
    theirs, ours = faults.slow.safe_schedule("float32", 16), fault(faults.RIGHT)
    with Tuner(RIVALS, db, OPTIONS) as tuner:
        assert tuner.choose(WORKLOAD, [theirs, ours]).key.template == "fault"
        assert tuner.choose(WORKLOAD, [theirs]).key.template == "slow_fault"
        with pytest.raises(KernelError, match="none is of a template for it"):
            tuner.choose(replace(WORKLOAD, causal=False), [theirs])


def test_a_target_builds_and_loads_each_schedule_by_its_template(tmp_path: Path) -> None:
    target = get_backend(RIVALS)
    paths = [
        target.build(member.safe_schedule("float32", 16), "float32", 16, tmp_path)
        for member in target.members
    ]
    assert [path.name.partition("-")[0] for path in paths] == ["slow_fault", "fault"]
    assert all(callable(target.load(path)) for path in paths)
    assert target.safe_schedule("float32", 16).template == "slow_fault"
