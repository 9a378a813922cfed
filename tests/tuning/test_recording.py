"""What a run takes over from the database, and what it writes there. No process is started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from hcompile.schedules import Schedule
from hcompile.tuning.measure import Measurer
from hcompile.tuning.measurement import Measurement
from hcompile.tuning.recording import RecordingRunner, known_measurements
from hcompile.tuning_db.record import Record, Status
from hcompile.tuning_db.store import QUARANTINED, TuningDB, open_db
from hcompile.workload import Workload
from tests.tuning import fault_backends as faults
from tests.tuning.test_measure import WORKLOAD

KEY = faults.harmless.record_key(WORKLOAD)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[TuningDB]:
    with open_db(tmp_path / "tuning.sqlite") as opened:
        yield opened


def _schedule(number: int) -> Schedule:
    return Schedule.of("fault", {"fault": faults.RIGHT, "delay": number})


def test_failures_that_a_bad_moment_can_cause_are_those_of_their_own_run(db: TuningDB) -> None:
    failures = [status for status in Status if status is not Status.OK]
    for number, status in enumerate(failures):
        db.add(Record.failed(KEY, _schedule(number).text, status, "why", run_id="first"))
    again = {each.status for each in known_measurements(db, KEY, "second")}
    assert again == {Status.WRONG, Status.COMPILE_ERROR}
    assert {each.status for each in known_measurements(db, KEY, "first")} == set(failures)


def test_a_candidate_that_killed_whole_processes_is_not_tried_by_another_run(db: TuningDB) -> None:
    message = f"{QUARANTINED}the process that measured it died 2 times"
    db.add(Record.failed(KEY, _schedule(0).text, Status.CRASH, message, run_id="first"))
    assert [each.message for each in known_measurements(db, KEY, "second")] == [message]


def test_only_what_was_timed_again_is_recorded_again(db: TuningDB, monkeypatch: pytest.MonkeyPatch) -> None:
    old = [Measurement(_schedule(number), Status.OK, (5.0,), 0.0, 1.0) for number in range(2)]
    new = replace(old[1], times_us=(4.0,))

    def retime(self: Measurer, workload: Workload, each: Sequence[Measurement]) -> list[Measurement]:
        return [each[0], new]

    monkeypatch.setattr(Measurer, "retime", retime)
    with Measurer("tests.tuning.fault_backends:harmless", 1) as measurer:
        assert RecordingRunner(db, measurer, KEY, "run").retime(old) == [old[0], new]
    assert [record.median_us for record in db.records(KEY)] == [4.0]
