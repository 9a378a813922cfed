"""What is kept of one measured candidate: how it ended, how long it took, and how right it was.

Records come from files too (`db import`), so each checks itself completely.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from hcompile.checks import check_bool, check_int, check_number, check_object, check_text, shown
from hcompile.tuning_db.key import RecordKey
from hcompile.values import canonical_json, sha256_json

MESSAGE_CHARS = 4000
"""The longest message a record keeps."""


class Status(StrEnum):
    """How a candidate ended."""

    OK = "ok"
    WRONG = "wrong"
    COMPILE_ERROR = "compile_error"
    CRASH = "crash"
    TIMEOUT = "timeout"
    OUT_OF_MEMORY = "out_of_memory"


@dataclass(frozen=True, slots=True)
class Record:
    """One measured candidate. `Record.timed` and `Record.failed` build one.

    Attributes:
        schedule: canonical JSON text of the schedule, `{"template": str, "values": {axis: int}}`.
        median_us, p20_us, p80_us: of `samples` timings of one call; there exactly if the status is ok.
        max_err: largest absolute error against the reference; None where not measured or not finite.
        tolerance: what `max_err` was held against.
        message: one line or more on a failure.
        measured_at: UTC, `2026-11-24T06:10:00.000000Z`. The newest record of a schedule counts.
        run_id: names the run that measured, for `db list`.
        noisy: the host was busy with other work.
    """

    key: RecordKey
    schedule: str
    status: Status
    median_us: float | None
    p20_us: float | None
    p80_us: float | None
    samples: int
    max_err: float | None
    tolerance: float | None
    message: str
    measured_at: str
    run_id: str
    noisy: bool

    def __post_init__(self) -> None:
        check_schedule(self.schedule, self.key.template)
        if not isinstance(self.status, Status):
            raise ValueError(f"status is {shown(self.status)}, wanted one of {', '.join(Status)}")
        for name in ("median_us", "p20_us", "p80_us", "max_err", "tolerance"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name))
        check_int("samples", self.samples)
        check_text("message", self.message, MESSAGE_CHARS, empty=True)
        check_text("run_id", self.run_id, 64)
        check_bool("noisy", self.noisy)
        check_time("measured_at", self.measured_at)
        times = (self.p20_us, self.median_us, self.p80_us)
        if self.status is not Status.OK:
            if times != (None, None, None) or self.samples:
                raise ValueError(f"a record of status {self.status} has no times")
            return
        if self.p20_us is None or self.median_us is None or self.p80_us is None or not self.samples:
            raise ValueError("a record of status ok needs median_us, p20_us, p80_us and samples")
        if not 0 < self.p20_us <= self.median_us <= self.p80_us:
            raise ValueError(f"p20, median and p80 are {times} us, wanted positive and in order")
        if self.max_err is None or self.tolerance is None or self.max_err > self.tolerance:
            raise ValueError(
                f"a record of status ok has an error of {self.max_err}, above tolerance {self.tolerance}"
            )

    @classmethod
    def timed(
        cls,
        key: RecordKey,
        schedule: str,
        times_us: Sequence[float],
        *,
        max_err: float,
        tolerance: float,
        run_id: str,
        noisy: bool = False,
    ) -> Record:
        """Return the record of a right candidate from the times of its calls, measured now."""
        low, median, high = _spread(times_us)
        return cls(
            key=key,
            schedule=schedule,
            status=Status.OK,
            median_us=median,
            p20_us=low,
            p80_us=high,
            samples=len(times_us),
            max_err=max_err,
            tolerance=tolerance,
            message="",
            measured_at=utc_now(),
            run_id=run_id,
            noisy=noisy,
        )

    @classmethod
    def failed(
        cls,
        key: RecordKey,
        schedule: str,
        status: Status,
        message: str,
        *,
        run_id: str,
        max_err: float | None = None,
        tolerance: float | None = None,
        noisy: bool = False,
    ) -> Record:
        """Return the record of a failure seen now; a long message keeps its end, where the cause stands."""
        clean = message.replace("\0", "").encode(errors="replace").decode()
        return cls(
            key=key,
            schedule=schedule,
            status=status,
            median_us=None,
            p20_us=None,
            p80_us=None,
            samples=0,
            max_err=max_err,
            tolerance=tolerance,
            message=clean[-MESSAGE_CHARS:],
            measured_at=utc_now(),
            run_id=run_id,
            noisy=noisy,
        )

    @property
    def digest(self) -> str:
        """The sha256 of the JSON form, which names the record in `db show`."""
        return sha256_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        value = {field.name: getattr(self, field.name) for field in fields(self)}
        changed = {
            "key": self.key.to_json(),
            "schedule": json.loads(self.schedule),
            "status": str(self.status),
        }
        return value | changed

    @classmethod
    def from_json(cls, value: Any) -> Record:
        """Raises: ValueError that says what is wrong with the form."""
        form = check_object("record", value, (field.name for field in fields(cls)))
        if form["status"] not in list(Status):
            raise ValueError(f"status is {shown(form['status'])}, wanted one of {', '.join(Status)}")
        changed = {
            "key": RecordKey.from_json(form["key"]),
            "schedule": canonical_json(form["schedule"]),
            "status": Status(form["status"]),
        }
        return cls(**(form | changed))


def check_schedule(text: str, template: str) -> None:
    """Raise ValueError unless `text` is the canonical JSON of a schedule of `template` with integer values.

    Schedules steer code generation: nothing but names and integers passes. Whether the values are in the
    template's space is for the template to say, before it generates code.
    """
    try:
        value = json.loads(text)
    except (TypeError, ValueError) as error:
        raise ValueError(f"schedule {shown(text)} is no JSON text: {error}") from error
    schedule = check_object("schedule", value, ("template", "values"))
    if schedule["template"] != template:
        raise ValueError(
            f"schedule is of {shown(schedule['template'])}, its key of template {shown(template)}"
        )
    if not isinstance(schedule["values"], Mapping):
        raise ValueError(f"schedule values are {shown(schedule['values'])}, wanted an object")
    for axis, number in schedule["values"].items():
        check_text("schedule axis", axis, 64)
        check_int(f"schedule axis {axis}", number, -(2**31), 2**31)
    if canonical_json(value) != text:
        raise ValueError(f"schedule {shown(text)} is not canonical: sort its keys and leave out spaces")


def check_time(name: str, value: Any) -> None:
    """Raise ValueError unless `value` is a UTC time as `utc_now` writes it."""
    try:
        if _time_text(datetime.fromisoformat(value)) == value:
            return
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{name} is {shown(value)}, wanted UTC such as 2026-11-24T06:10:00.000000Z")


def utc_now() -> str:
    """Return the present time in UTC, in the one form that sorts as text."""
    return _time_text(datetime.now(UTC))


def _time_text(moment: datetime) -> str:
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _spread(times_us: Sequence[float]) -> tuple[float, float, float]:
    """Return the 20th, 50th and 80th percentile, in order whatever interpolation rounds to."""
    if not times_us:
        raise ValueError("a timed record needs at least one time")
    times = [float(time) for time in times_us]
    median = float(statistics.median(times))
    if len(times) == 1:
        return median, median, median
    tenths = statistics.quantiles(times, n=10, method="inclusive")
    return min(tenths[1], median), median, max(tenths[7], median)
