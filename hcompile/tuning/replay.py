"""Recorded sweeps: every schedule of a workload, measured once for all, and a runner that answers from one."""

from __future__ import annotations

import gzip
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hcompile.checks import check_object
from hcompile.schedules import Schedule
from hcompile.tuning.measurement import Measurement, fastest
from hcompile.tuning_db.record import Status
from hcompile.workload import Workload

SCHEMA = 1
_FIELDS = (
    "schema",
    "name",
    "workload",
    "recorded",
    "template",
    "axes",
    "features",
    "default",
    "points",
    "repeats",
)
_TIME_DIGITS = 2  # A hundredth of a microsecond is below any noise, and keeps the files small.


@dataclass(frozen=True, slots=True)
class Sweep:
    """All measurements of one workload.

    Attributes:
        name: short name for tables, such as `dense-2048`.
        recorded: what the times were measured on: date, device, versions.
        points: one measurement per schedule of the space.
        features: one row per point, as the space encodes it, and what the compiler said where points are compiled
            ahead; empty for a point that did not compile then, which no search sees (see `tune.Tuner`).
        default: position of the space's default schedule.
        repeats: two timings of one point at different times, by its position, for the noise floor.
        also: positions of the other schedules that a search begins with; no part of the record.
    """

    name: str
    workload: Workload
    recorded: Mapping[str, Any]
    points: tuple[Measurement, ...]
    features: tuple[tuple[float, ...], ...]
    default: int
    repeats: Mapping[int, tuple[float, float]]
    also: tuple[int, ...] = ()

    def best(self) -> Measurement:
        """Return the fastest right point.

        Raises:
            ValueError: the sweep has none.
        """
        found = fastest(self.points)
        if found is None:
            raise ValueError(f"sweep {self.name} has no right point")
        return found

    @property
    def template(self) -> str:
        return self.points[0].schedule.template

    def searched(self) -> tuple[int, ...]:
        """Return the positions of the points that a search sees."""
        return tuple(position for position, row in enumerate(self.features) if row)

    def near_best(self, share: float) -> int:
        """Count the points within `share` of the best."""
        limit = self.best().median_us * (1 + share)
        return sum(each.ok and each.median_us <= limit for each in self.points)

    def noise(self) -> float:
        """Return the median relative difference between two timings of one point."""
        return statistics.median(
            abs(first - again) / min(first, again) for first, again in self.repeats.values()
        )

    def save(self, path: Path) -> None:
        """Write the sweep as compressed JSON, equal bytes for equal sweeps."""
        axes = [axis for axis, _ in self.points[0].schedule.values]
        points = [
            [[number for _, number in each.schedule.values], *_point_form(each)] for each in self.points
        ]
        form = {
            "schema": SCHEMA,
            "name": self.name,
            "workload": self.workload.to_json(),
            "recorded": dict(self.recorded),
            "template": self.template,
            "axes": axes,
            "features": self.features,
            "default": self.default,
            "points": points,
            "repeats": [
                [at, *(round(us, _TIME_DIGITS) for us in pair)] for at, pair in sorted(self.repeats.items())
            ],
        }
        path.write_bytes(gzip.compress(json.dumps(form, separators=(",", ":")).encode(), mtime=0))

    @classmethod
    def load(cls, path: Path) -> Sweep:
        """Raises: ValueError when the file is no sweep of this schema."""
        form = check_object(f"sweep {path}", json.loads(gzip.decompress(path.read_bytes())), _FIELDS)
        if form["schema"] != SCHEMA:
            raise ValueError(f"sweep {path} has schema {form['schema']}, wanted {SCHEMA}")
        points = []
        for values, status, *times in form["points"]:
            schedule = Schedule(form["template"], tuple(zip(form["axes"], values, strict=True)))
            points.append(Measurement(schedule, Status(status), tuple(times)))
        return cls(
            name=form["name"],
            workload=Workload.from_json(form["workload"]),
            recorded=form["recorded"],
            points=tuple(points),
            features=tuple(map(tuple, form["features"])),
            default=form["default"],
            repeats={at: (first, again) for at, first, again in form["repeats"]},
        )


class Replay:
    """A runner that answers from a sweep, and counts what it was asked."""

    def __init__(self, sweep: Sweep) -> None:
        self._by_schedule = {each.schedule: each for each in sweep.points}
        self.trials = 0

    def run(self, schedules: Sequence[Schedule], limit_us: float) -> Iterator[Measurement]:
        for schedule in schedules:
            self.trials += 1
            yield self._by_schedule[schedule]

    def retime(self, measurements: Sequence[Measurement]) -> list[Measurement]:
        return list(measurements)

    def known(self) -> Sequence[Measurement]:
        """Return nothing: a search on a sweep is alone."""
        return ()


def _point_form(point: Measurement) -> list[Any]:
    return [str(point.status), *(round(time, _TIME_DIGITS) for time in _summary(point.times_us))]


def _summary(times_us: Sequence[float]) -> tuple[float, ...]:
    """Return the 20th, 50th and 80th percentile of the times: what a sweep keeps of them."""
    if not times_us:
        return ()
    ordered = sorted(times_us)
    last = len(ordered) - 1
    return ordered[round(last * 0.2)], ordered[last // 2], ordered[round(last * 0.8)]
