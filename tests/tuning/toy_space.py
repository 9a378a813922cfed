"""A space of six axes whose times are known exactly: for searches that must not depend on any machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from hcompile.schedules import Schedule
from hcompile.tuning.measurement import Measurement
from hcompile.tuning.problem import Problem
from hcompile.tuning_db.record import Status

AXES = ("block_q", "block_k", "rows", "vectors", "unroll", "stage")
_CHOICES = ((32, 64, 128), (32, 64, 128), (2, 4, 8), (1, 2, 4), (1, 2, 4), (0, 1))


def toy_schedules() -> tuple[Schedule, ...]:
    """Return all 486 combinations."""
    return tuple(
        Schedule("toy", tuple(zip(AXES, values, strict=True))) for values in itertools.product(*_CHOICES)
    )


def toy_us(schedule: Schedule) -> float:
    """Return a time with interactions: a good register tile, blocks that fit each other, and small corrections."""
    v = dict(schedule.values)
    tile = v["rows"] * v["vectors"]
    spill = 0.5 if tile > 16 else 0.0
    loads = (v["rows"] + v["vectors"]) / tile
    blocks = abs(np.log2(v["block_q"] / 64)) + 0.5 * abs(np.log2(v["block_k"] / v["block_q"]))
    stage = 0.04 if v["stage"] == (v["block_k"] <= 64) else 0.0
    return 1000.0 * float(1 + spill + 0.3 * loads + 0.08 * blocks + stage + 0.03 / v["unroll"])


def toy_problem(default: int = 0) -> Problem:
    """Return the space as a search sees it."""
    points = toy_schedules()
    features = np.array([[np.log2(1 + number) for _, number in point.values] for point in points])
    return Problem(points=points, features=features, work=1000.0, default=default)


class ToyRunner:
    """Answers with the known times; the schedules in `broken` fail, and those in `busy` are left out."""

    def __init__(
        self, broken: frozenset[Schedule] = frozenset(), busy: frozenset[Schedule] = frozenset()
    ) -> None:
        self.broken = broken
        self.busy = busy
        self.asked: list[Schedule] = []

    def run(self, schedules: Sequence[Schedule], limit_us: float) -> Iterator[Measurement]:
        for schedule in schedules:
            self.asked.append(schedule)
            if schedule in self.broken:
                yield Measurement(schedule, Status.WRONG, message="error 1 is above the tolerance of 0.1")
            elif schedule not in self.busy:
                yield Measurement(schedule, Status.OK, (toy_us(schedule),))

    def retime(self, measurements: Sequence[Measurement]) -> list[Measurement]:
        return list(measurements)

    def known(self) -> Sequence[Measurement]:
        return ()
