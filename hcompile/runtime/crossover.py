"""Which calls take the hybrid graph, by batch and length: measured, and kept with the measurements it rests on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from hcompile.checks import check_int, check_number, check_object, shown

# The hybrid graph must win by more than the timer's noise before short inputs leave the dense graph.
_LEAST_GAIN = 0.98


@dataclass(frozen=True, slots=True)
class Timing:
    """One batch size and length: medians of the dense and of the hybrid graph, in microseconds a call."""

    length: int
    dense_us: float
    hybrid_us: float
    batch: int = 1

    def __post_init__(self) -> None:
        check_int("crossover: batch", self.batch, 1)
        check_int("crossover: length", self.length, 1)
        check_number("crossover: dense_us", self.dense_us)
        check_number("crossover: hybrid_us", self.hybrid_us)

    @property
    def won(self) -> bool:
        """Whether the hybrid graph is the faster one by more than noise."""
        return self.hybrid_us <= _LEAST_GAIN * self.dense_us

    def to_json(self) -> dict[str, Any]:
        return {
            "batch": self.batch,
            "length": self.length,
            "dense_us": self.dense_us,
            "hybrid_us": self.hybrid_us,
        }


@dataclass(frozen=True, slots=True)
class Crossover:
    """Calls take the hybrid graph from a length on that depends on their batch size.

    Attributes:
        hybrid_from: (batch, length) by rising batch. A call goes by the last pair whose batch is not above its own:
            from `length` tokens on it takes the hybrid graph, at None never. () where no call does.
        timings: what was measured, by rising batch and length; () where nothing was.
    """

    hybrid_from: tuple[tuple[int, int | None], ...] = ()
    timings: tuple[Timing, ...] = ()

    def __post_init__(self) -> None:
        for batch, start in self.hybrid_from:
            check_int("crossover: batch of hybrid_from", batch, 1)
            if start is not None:
                check_int("crossover: hybrid_from", start)
        _check_rising("hybrid_from", [batch for batch, _ in self.hybrid_from])
        _check_rising("timings", [(timing.batch, timing.length) for timing in self.timings])

    @classmethod
    def from_length(cls, length: int) -> Crossover:
        """Let calls of any batch size take the hybrid graph from `length` tokens on."""
        return cls(((1, length),))

    @classmethod
    def of(cls, timings: Iterable[Timing]) -> Crossover:
        """Choose, for each measured batch, the least measured length from which on the hybrid graph always won.

        Where it lost at the batch's longest measured length, what the next smaller batch says counts for the lengths
        beyond that: more rows only keep a device busier.
        """
        rising = tuple(sorted(timings, key=lambda timing: (timing.batch, timing.length)))
        starts: list[tuple[int, int | None]] = []
        smaller: int | None = None
        for batch, measured in groupby(rising, key=lambda timing: timing.batch):
            row = tuple(measured)
            start = _won_from(row)
            if start is None and smaller is not None:
                start = max(smaller, row[-1].length + 1)
            starts.append((batch, start))
            smaller = start
        return cls(tuple(starts), rising)

    def takes_hybrid(self, batch: int, length: int) -> bool:
        start = None
        for least, candidate in self.hybrid_from:
            if least > batch:
                break
            start = candidate
        return start is not None and length >= start

    def to_json(self) -> dict[str, Any]:
        return {
            "hybrid_from": {str(batch): start for batch, start in self.hybrid_from},
            "timings": [timing.to_json() for timing in self.timings],
        }

    @classmethod
    def from_json(cls, value: Any) -> Crossover:
        """Read a crossover; also one of artifacts of schema 1, which knew one length and timed batch 1 only.

        Raises: ValueError or TypeError when `value` is no crossover.
        """
        fields = check_object("crossover", value, ("hybrid_from", "timings"))
        starts = fields["hybrid_from"]
        if starts is None or type(starts) is int:
            timings = tuple(
                _timing(timing, "length", "dense_us", "hybrid_us") for timing in fields["timings"]
            )
            return cls(((1, starts),), timings)
        if not isinstance(starts, dict):
            raise ValueError(
                f"crossover: hybrid_from is {shown(starts)}, wanted an object of lengths by batch"
            )
        timings = tuple(
            _timing(timing, "batch", "length", "dense_us", "hybrid_us") for timing in fields["timings"]
        )
        return cls(tuple((_batch(batch), start) for batch, start in starts.items()), timings)


def _won_from(row: tuple[Timing, ...]) -> int | None:
    start = None
    for timing in reversed(row):
        if not timing.won:
            break
        start = timing.length
    return start


def _check_rising(name: str, values: list[Any]) -> None:
    if values != sorted(set(values)):
        raise ValueError(f"crossover: {name} has {shown(values)}, wanted them rising")


def _timing(value: Any, *fields: str) -> Timing:
    return Timing(**check_object("crossover: timing", value, fields))


def _batch(text: Any) -> int:
    if type(text) is not str or not text.isdecimal() or str(int(text)) != text:
        raise ValueError(f"crossover: batch of hybrid_from is {shown(text)}, wanted an integer's digits")
    return int(text)
