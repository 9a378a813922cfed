"""The winners of code generators that compete are timed against each other, once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hcompile.tuning.finals import decide
from hcompile.tuning.measure import MeasureLimits, Measurer
from hcompile.tuning.measurement import Measurement
from hcompile.tuning.tune import TuneOptions, Tuner
from hcompile.tuning_db.record import Record
from hcompile.tuning_db.store import TuningDB, open_db
from hcompile.workload import Workload
from tests.tuning import fault_backends as faults
from tests.tuning.test_measure import ROOT, WORKLOAD

CLOSE = "tests.tuning.fault_backends:close"
OPTIONS = TuneOptions(limits=MeasureLimits(workers=1))


@pytest.fixture
def db(tmp_path: Path) -> Iterator[TuningDB]:
    with open_db(tmp_path / "tuning.sqlite") as opened:
        yield opened


def recorded(db: TuningDB, member: faults.FaultBackend, time_us: float) -> Record:
    """Record the one schedule of a member as measured by an earlier run."""
    key, text = member.record_key(WORKLOAD), member.safe_schedule("float32", 16).text
    record = Record.timed(key, text, [time_us], max_err=0.0, tolerance=1.0, run_id="before")
    db.add(record)
    return record


def test_times_against_each_other_decide_and_are_recorded(
    db: TuningDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # The late one takes 120 ms, as it will turn out, and the steady one 20.
    recorded(db, faults.late, 10_000)
    recorded(db, faults.steady, 12_000)
    with Tuner(CLOSE, db, OPTIONS) as tuner:
        best = tuner.tune(WORKLOAD)
        assert tuner.measured == 0
    assert best.key.backend == "steady"
    times = {record.key.backend: record.median_us or 0.0 for record in db.records()}
    assert best.median_us == times["steady"] and 20_000 < times["steady"] < times["late"]
    assert {record.run_id for record in db.records()} == {best.run_id} != {"before"}
    with Tuner(CLOSE, db, OPTIONS) as tuner:
        assert tuner.tune(WORKLOAD) == best
        assert tuner._measurer._pool._workers == [None]


class Retiming:
    """Stands for the measuring processes: keeps count, and adds to every time, or fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, added_us: Sequence[float] | None) -> None:
        self.calls = 0
        self._added_us = added_us
        monkeypatch.setattr(Measurer, "retime", lambda _, workload, each: self.retime(workload, each))

    def retime(self, workload: Workload, each: Sequence[Measurement]) -> list[Measurement]:
        self.calls += 1
        if self._added_us is None:
            return list(each)
        return [
            Measurement(old.schedule, old.status, (old.median_us + more,), old.max_err, old.tolerance)
            for old, more in zip(each, self._added_us, strict=True)
        ]


def decided(db: TuningDB, winners: Sequence[Record], factor: float = 1.5) -> Record:
    with Measurer(CLOSE, 1) as measurer:
        return decide(db, measurer, winners, slow_factor=factor, run_id="now")


def test_older_times_decide_where_one_fails_and_the_next_run_tries_again(
    db: TuningDB, monkeypatch: pytest.MonkeyPatch
) -> None:
    winners = [recorded(db, faults.late, 10.0), recorded(db, faults.steady, 12.0)]
    failing = Retiming(monkeypatch, None)
    assert [decided(db, winners), decided(db, winners)] == [winners[0]] * 2
    assert failing.calls == 2
    assert {record.run_id for record in db.records()} == {"before"}
    Retiming(monkeypatch, (5.0, 0.0))
    assert decided(db, winners).key.backend == "steady"


def test_what_was_decided_is_not_timed_again(db: TuningDB, monkeypatch: pytest.MonkeyPatch) -> None:
    winners = [recorded(db, each, time) for each, time in ((faults.late, 10.0), (faults.steady, 12.0))]
    timing = Retiming(monkeypatch, (5.0, 0.0))
    best = decided(db, winners)
    again = [recorded(db, faults.late, 15.0), best]
    assert decided(db, again) == best and timing.calls == 1


def test_one_that_is_far_behind_takes_no_part(db: TuningDB, monkeypatch: pytest.MonkeyPatch) -> None:
    timing = Retiming(monkeypatch, (0.0, 0.0))
    winners = [recorded(db, faults.late, 16.0), recorded(db, faults.steady, 10.0)]
    assert decided(db, winners) == winners[1] and timing.calls == 0
    three = [*winners, recorded(db, faults.slow, 10.5)]
    assert decided(db, three).key.backend == "steady" and timing.calls == 1
    assert {record.key.backend for record in db.records() if record.run_id == "now"} == {"steady", "slow"}
