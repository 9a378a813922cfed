"""From which length the hybrid graph is used: measured, and kept with the measurements it rests on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hcompile.checks import check_int, check_number, check_object

# The hybrid graph must win by more than the timer's noise before short inputs leave the dense graph.
_LEAST_GAIN = 0.98


@dataclass(frozen=True, slots=True)
class Timing:
    """One length: medians of the dense and of the hybrid graph, in microseconds, batch 1."""

    length: int
    dense_us: float
    hybrid_us: float

    def __post_init__(self) -> None:
        check_int("crossover: length", self.length, 1)
        check_number("crossover: dense_us", self.dense_us)
        check_number("crossover: hybrid_us", self.hybrid_us)

    def to_json(self) -> dict[str, Any]:
        return {"length": self.length, "dense_us": self.dense_us, "hybrid_us": self.hybrid_us}


@dataclass(frozen=True, slots=True)
class Crossover:
    """Lengths of at least `hybrid_from` take the hybrid graph; None: no length does.

    Attributes:
        timings: what was measured, by rising length; () where nothing was.
    """

    hybrid_from: int | None
    timings: tuple[Timing, ...] = ()

    def __post_init__(self) -> None:
        if self.hybrid_from is not None:
            check_int("crossover: hybrid_from", self.hybrid_from)

    @classmethod
    def of(cls, timings: Iterable[Timing]) -> Crossover:
        """Choose the least measured length from which on the hybrid graph always won."""
        rising = tuple(sorted(timings, key=lambda timing: timing.length))
        start = None
        for timing in reversed(rising):
            if timing.hybrid_us > _LEAST_GAIN * timing.dense_us:
                break
            start = timing.length
        return cls(start, rising)

    def takes_hybrid(self, length: int) -> bool:
        return self.hybrid_from is not None and length >= self.hybrid_from

    def to_json(self) -> dict[str, Any]:
        return {"hybrid_from": self.hybrid_from, "timings": [timing.to_json() for timing in self.timings]}

    @classmethod
    def from_json(cls, value: Any) -> Crossover:
        """Raises: ValueError or TypeError when `value` is no crossover."""
        fields = check_object("crossover", value, ("hybrid_from", "timings"))
        return cls(fields["hybrid_from"], tuple(Timing(**timing) for timing in fields["timings"]))
