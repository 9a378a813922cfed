"""The runner of real searches: claims a candidate, measures it, and keeps the record before anything else happens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from hcompile.schedules import Schedule
from hcompile.tuning.measure import ROUNDS, Measurer
from hcompile.tuning.measurement import Measurement
from hcompile.tuning_db.key import RecordKey
from hcompile.tuning_db.record import Record, Status
from hcompile.tuning_db.store import QUARANTINED, Claim, TuningDB

TRANSIENT = frozenset({Status.CRASH, Status.OUT_OF_MEMORY, Status.TIMEOUT})
"""Failures that a busy or full machine can cause."""


class RecordingRunner:
    """Measures candidates of one workload into the tuning database.

    A candidate is claimed just before it runs, one at a time: should it take the whole process or host down, the claim
    that is left names it, and the next run knows.
    """

    def __init__(self, db: TuningDB, measurer: Measurer, key: RecordKey, run_id: str) -> None:
        self._db = db
        self._measurer = measurer
        self._key = key
        self._run_id = run_id

    def run(self, schedules: Sequence[Schedule], limit_us: float) -> Iterator[Measurement]:
        rounds = replace(ROUNDS, limit_us=limit_us)
        self._measurer.build(self._key.workload, schedules)
        for schedule in schedules:
            claim = self._db.claim(self._key, schedule.text, run_id=self._run_id)
            if claim is Claim.GRANTED:
                measurement = self._measurer.measure(self._key.workload, schedule, rounds)
                self._keep(measurement)
                yield measurement
            elif claim is Claim.QUARANTINED:
                yield next(known for known in self.known() if known.schedule == schedule)

    def retime(self, measurements: Sequence[Measurement]) -> list[Measurement]:
        again = self._measurer.retime(self._key.workload, measurements)
        for old, new in zip(measurements, again, strict=True):
            if new is not old:
                self._keep(new)
        return again

    def known(self) -> Sequence[Measurement]:
        return known_measurements(self._db, self._key, self._run_id)

    def _keep(self, measurement: Measurement) -> None:
        self._db.add(record_of(measurement, self._key, self._run_id))


def known_measurements(db: TuningDB, key: RecordKey, run_id: str) -> list[Measurement]:
    """Return what the database knows of a workload, as far as it stands, in the order in which it was measured."""
    records = sorted(db.records(key), key=lambda record: (record.measured_at, record.schedule))
    return [Measurement.of_record(record) for record in records if stands(record, run_id)]


def stands(record: Record, run_id: str) -> bool:
    """Say whether a record counts in this run.

    What may have been another run's bad moment is measured again, once in a run, except where the candidate killed
    whole processes.
    """
    lasting = record.status not in TRANSIENT or record.message.startswith(QUARANTINED)
    return lasting or record.run_id == run_id


def record_of(measurement: Measurement, key: RecordKey, run_id: str) -> Record:
    """Return the record of a measurement made just now."""
    text, noisy = measurement.schedule.text, measurement.noisy
    if measurement.ok and measurement.max_err is not None and measurement.tolerance is not None:
        error = {"max_err": measurement.max_err, "tolerance": measurement.tolerance}
        return Record.timed(key, text, measurement.times_us, **error, run_id=run_id, noisy=noisy)
    return Record.failed(
        key,
        text,
        measurement.status,
        measurement.message,
        run_id=run_id,
        max_err=measurement.max_err,
        tolerance=measurement.tolerance,
        noisy=noisy,
    )
