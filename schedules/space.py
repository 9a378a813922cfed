"""A space of schedules: the axes of a template, less the combinations that make no valid or no different kernel."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from hcompile.schedules.axis import Axis
from hcompile.schedules.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Space:
    """The legal schedules of one template for one problem.

    Attributes:
        legal: whether a combination of values is in the space.
        start: the values that are safe on any machine of the problem's kind, tried first.
    """

    template: str
    axes: tuple[Axis, ...]
    legal: Callable[[Mapping[str, int]], bool]
    start: tuple[tuple[str, int], ...]
    also: tuple[tuple[tuple[str, int], ...], ...] = ()

    def __post_init__(self) -> None:
        if self.default() not in self:
            raise ValueError(f"space of {self.template}: its default {self.default().text} is not legal")

    def default(self) -> Schedule:
        return Schedule(self.template, self.start)

    def starts(self) -> tuple[Schedule, ...]:
        """Return what a search measures first: the default, and others known to be the best of some workload."""
        others = (Schedule(self.template, values) for values in self.also)
        return (self.default(), *(schedule for schedule in others if schedule in self))

    def enumerate(self) -> Iterator[Schedule]:
        """Yield every legal schedule once, in a fixed order."""
        names = [axis.name for axis in self.axes]
        for values in itertools.product(*(axis.choices for axis in self.axes)):
            point = dict(zip(names, values, strict=True))
            if self.legal(point):
                yield Schedule.of(self.template, point)

    def __contains__(self, schedule: object) -> bool:
        if not isinstance(schedule, Schedule) or schedule.template != self.template:
            return False
        values = dict(schedule.values)
        if set(values) != {axis.name for axis in self.axes}:
            return False
        return all(values[axis.name] in axis.choices for axis in self.axes) and self.legal(values)

    def encode(self, schedule: Schedule) -> list[float]:
        """Return the schedule as a cost model sees it, one number per axis in the order of `axes`."""
        values = dict(schedule.values)
        return [axis.encode(values[axis.name]) for axis in self.axes]
