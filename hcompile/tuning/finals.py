"""The winners of code generators that compete, timed against each other: their own times are of different moments."""

from __future__ import annotations

from collections.abc import Sequence

from hcompile.tuning.measure import Measurer
from hcompile.tuning.measurement import Measurement
from hcompile.tuning.recording import record_of
from hcompile.tuning_db.record import Record
from hcompile.tuning_db.result import ResultKey
from hcompile.tuning_db.store import TuningDB
from hcompile.values import sha256_json


def decide(
    db: TuningDB, measurer: Measurer, winners: Sequence[Record], *, slow_factor: float, run_id: str
) -> Record:
    """Return the fastest of right records of one workload, one of each code generator.

    They are timed in turn by one process, and these times go to the database in place of the older ones. What was
    decided is not timed again. Where one of them fails now, the older times decide, and the next run tries again.

    Args:
        measurer: of a backend that loads what each of them builds.
        slow_factor: one slower than the fastest by this factor takes no part.
    """
    key = _key(winners)
    decided = db.get_result(key)
    if decided is not None:
        return next(record for record in winners if record.schedule == decided["winner"])
    best = min(winners, key=_median_us)
    close = [record for record in winners if _median_us(record) <= _median_us(best) * slow_factor]
    if len(close) == 1:
        return best
    before = [Measurement.of_record(record) for record in close]
    after = measurer.retime(best.key.workload, before)
    if any(new is old for new, old in zip(after, before, strict=True)):
        return best
    timed = [record_of(new, old.key, run_id) for new, old in zip(after, close, strict=True)]
    for record in timed:
        db.add(record)
    best = min(timed, key=_median_us)
    db.put_result(key, {"winner": best.schedule})
    return best


def _key(winners: Sequence[Record]) -> ResultKey:
    """Return what a decision is kept under: who takes part."""
    return ResultKey.of(
        "tuning.final",
        weights_sha256=sha256_json(None),
        data_sha256=sha256_json([[record.key.digest, record.schedule] for record in winners]),
        code_sha256=sha256_json([record.key.source_sha256 for record in winners]),
    )


def _median_us(record: Record) -> float:
    assert record.median_us is not None  # They are right.
    return record.median_us
