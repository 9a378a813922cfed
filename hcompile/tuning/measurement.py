"""What came of one candidate, and what can give it: the vocabulary of the search."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from hcompile.schedules import Schedule
from hcompile.tuning_db.record import Record, Status


@dataclass(frozen=True, slots=True)
class Measurement:
    """One candidate, checked and timed, or the way it failed.

    Attributes:
        times_us: times of single calls; empty if and only if the status is not ok.
        max_err, tolerance: error against the reference and its bound, at the element where they are closest.
        message: the reason of a failure.
        noisy: other work kept the machine busy during the timing.
    """

    schedule: Schedule
    status: Status
    times_us: tuple[float, ...] = ()
    max_err: float | None = None
    tolerance: float | None = None
    message: str = ""
    noisy: bool = False

    def __post_init__(self) -> None:
        if (self.status is Status.OK) != bool(self.times_us):
            raise ValueError(f"a measurement of status {self.status} has {len(self.times_us)} times")

    @property
    def ok(self) -> bool:
        return self.status is Status.OK

    @property
    def median_us(self) -> float:
        """Raises: ValueError when the candidate failed."""
        return float(statistics.median(self.times_us))

    @classmethod
    def of_record(cls, record: Record) -> Measurement:
        """Return what a record keeps of a measurement: of its times, the median and the two percentiles."""
        times = (record.p20_us, record.median_us, record.p80_us)
        return cls(
            schedule=Schedule.from_json(json.loads(record.schedule)),
            status=record.status,
            times_us=tuple(time for time in times if time is not None),
            max_err=record.max_err,
            tolerance=record.tolerance,
            message=record.message,
            noisy=record.noisy,
        )


class Runner(Protocol):
    """Measures candidates of one workload: by running them (`measure`), or from a recorded sweep (`replay`)."""

    def run(self, schedules: Sequence[Schedule], limit_us: float) -> Iterator[Measurement]:
        """Yield one measurement per schedule, in order; one slower than `limit_us` may be timed by a single call.

        A schedule that another process is measuring is left out.
        """

    def retime(self, measurements: Sequence[Measurement]) -> list[Measurement]:
        """Time right candidates against each other, in turn, and return them with their new times."""

    def known(self) -> Sequence[Measurement]:
        """Return what is known of the workload by now, whoever measured it."""


def fastest(measurements: Sequence[Measurement]) -> Measurement | None:
    """Return the right candidate with the least median, the first of equals."""
    return min((each for each in measurements if each.ok), key=lambda each: each.median_us, default=None)


TrialProgress = Callable[[int, int, float | None], None]
"""Called with trials done, trials at most, and the best time in microseconds so far (None before the first)."""
