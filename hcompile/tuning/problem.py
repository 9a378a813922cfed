"""The abstract problem that a search strategy sees: numbered points with features, and what is known of their times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from hcompile.schedules import Schedule
from hcompile.tuning.measurement import Measurement

Floats = npt.NDArray[np.float64]


def _no_rows() -> Floats:
    return np.empty((0, 0))


@dataclass(frozen=True, slots=True)
class Problem:
    """One workload's search space.

    Attributes:
        points: every legal schedule, each once; strategies speak of their positions.
        features: `[points, F]`.
        work: what a time is divided by before workloads are compared: the pairs a call visits, times the head size.
        default: position of the schedule that is safe anywhere, measured first.
        also: positions of others that are known to be good, measured next.
        prior_features, prior_costs: `[M, F]` and `[M]`, right candidates of other workloads of this template and
            machine, and their costs (see `cost`).
    """

    points: tuple[Schedule, ...]
    features: Floats
    work: float
    default: int = 0
    prior_features: Floats = field(default_factory=_no_rows)
    prior_costs: Floats = field(default_factory=lambda: np.empty(0))
    also: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.points or len(set(self.points)) != len(self.points):
            raise ValueError("a search needs at least one schedule, and each once")
        if self.features.shape[0] != len(self.points) or len(self.prior_features) != len(self.prior_costs):
            raise ValueError("a search needs one row of features per schedule")
        if not 0 <= self.default < len(self.points) or not self.work > 0:
            raise ValueError("a search needs a default among its points and positive work")

    def cost(self, median_us: float) -> float:
        """Return the logarithm of the time per unit of work, in which workloads of all sizes are alike."""
        return float(np.log(median_us / self.work))

    def time_us(self, cost: float) -> float:
        """Return the time that has this cost."""
        return float(np.exp(cost) * self.work)

    def positions(self, measurements: Sequence[Measurement]) -> list[int]:
        """Return the position of each measured schedule."""
        where = {schedule: position for position, schedule in enumerate(self.points)}
        return [where[each.schedule] for each in measurements]
